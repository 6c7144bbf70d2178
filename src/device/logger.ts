/**
 * What every room may say about its work, in pino's shape: facts first, then a plain sentence.
 * The logger is passed in; none passed means silence. There is no global one.
 */
export type LogFacts = Readonly<Record<string, unknown>>

export interface Logger {
  debug(facts: LogFacts, message: string): void
  info(facts: LogFacts, message: string): void
  warn(facts: LogFacts, message: string): void
  error(facts: LogFacts, message: string): void
}

function discard(): void {}

export const silentLogger: Logger = Object.freeze({ debug: discard, info: discard, warn: discard, error: discard })
