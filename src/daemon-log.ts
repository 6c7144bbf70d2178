/**
 * The daemon's log: pino on standard error, pretty on a terminal, JSON otherwise. What is said is formatted at once and written
 * in the background (log-sink.ts); pino flushes by itself behind a fatal line.
 */
import { inspect } from 'node:util'
import { pino } from 'pino'
import { prettyFactory } from 'pino-pretty'
import { EXIT } from './index.js'
import { LogSink } from './log-sink.js'
import type { Logger as PinoLogger } from 'pino'

const STDERR = 2

export interface DaemonLog {
  readonly logger: PinoLogger
  /** Writes what is still in memory, now. For the end. */
  flush(): void
}

export function createLog(level: string): DaemonLog {
  const sink = new LogSink(STDERR)
  const flush = (): void => { sink.flushSync() }
  const format = process.stderr.isTTY
    ? prettyFactory({
      colorize: process.env.NO_COLOR === undefined, translateTime: 'SYS:HH:MM:ss.l', ignore: 'pid,hostname', singleLine: true,
    })
    : undefined
  const stream = { write: (line: string) => { sink.write(format ? format(line) : line) }, flushSync: flush }
  const logger = pino({ level, base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime }, stream)
  return { logger, flush }
}

/**
 * From now on an error that nobody caught ends the process: what it left in memory nobody knows, while what is on disk survives a
 * kill at any instant. One fatal line with the stack, then the exit code for it. It stays to the end of the process.
 */
export function endByBugs({ logger }: DaemonLog): void {
  const end = (reason: unknown, origin: string): void => {
    try {
      const err = reason instanceof Error ? reason : new Error(`not an Error: ${inspect(reason)}`)
      logger.fatal({ err, origin }, 'a bug in nbdelta: the server ends')
    } finally {
      process.exit(EXIT.bug)
    }
  }
  process.on('uncaughtException', error => { end(error, 'uncaught exception') })
  // Whatever Node.js was told to do about these.
  process.on('unhandledRejection', reason => { end(reason, 'unhandled rejection') })
}
