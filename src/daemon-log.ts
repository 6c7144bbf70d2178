/**
 * The daemon's log: pino on standard error, pretty on a terminal, JSON otherwise.
 *
 * Both write from this process and asynchronously: a terminal that is stopped with Ctrl-S, or a log reader that hangs, must
 * never hold up the event loop. What such a reader leaves unread is kept up to a limit and dropped beyond it.
 */
import { pino } from 'pino'
import pretty from 'pino-pretty'
import type { Logger as PinoLogger } from 'pino'

const STDERR = 2
/** Some 20,000 lines. */
const UNREAD_BYTES_MAX = 4 * 1024 * 1024

export interface DaemonLog {
  readonly logger: PinoLogger
  /** Writes what is still in memory, now. Called once, at the end. */
  flush(): void
}

export function createLog(level: string): DaemonLog {
  const destination = pino.destination({ dest: STDERR, sync: false, maxLength: UNREAD_BYTES_MAX })
  // Whoever read the log is gone; the server's work is not.
  destination.on('error', () => {})
  const stream = process.stderr.isTTY
    ? pretty({
      destination, colorize: process.env.NO_COLOR === undefined,
      translateTime: 'SYS:HH:MM:ss.l', ignore: 'pid,hostname', singleLine: true,
    })
    : destination
  const logger = pino({ level, base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime }, stream)
  return {
    logger,
    flush: () => {
      try { destination.flushSync() } catch { /* The reader is gone, or the stream not open yet: nothing to save. */ }
    },
  }
}
