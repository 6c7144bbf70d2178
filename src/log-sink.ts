/**
 * LogSink: lines of text on their way to a descriptor, written in the background, one write at a time and in order.
 *
 * A terminal that is stopped with Ctrl-S, or a reader that hangs, must never hold up the event loop: what it leaves unread is
 * kept up to UNREAD_CHARS_MAX and dropped beyond it. `flushSync` is for the end of the process: it writes the rest from this
 * thread, and gives a reader that takes nothing FLUSH_MS; a descriptor that blocks (a terminal) may hold it longer. Once nobody
 * reads any more (EPIPE) everything is dropped: the server's work goes on.
 * Limit: how much of a background write has been done is not known at the end if it is under way still. One that found no room
 * for all of it loses the rest, at most BATCH_CHARS: only where the reader was that far behind.
 */
import { write, writeSync } from 'node:fs'

/** Some 20,000 lines. */
const UNREAD_CHARS_MAX = 4 * 1024 * 1024
/** So much goes in one write. */
const BATCH_CHARS = 64 * 1024
const RETRY_MS = 100
const FLUSH_MS = 1000
const FLUSH_RETRY_MS = 10
/** What is being written in the background when the end comes has been tried by then. */
const SETTLE_MS = 20

export class LogSink {
  readonly #fd: number
  #waiting: string[] = []
  #waitingChars = 0
  #isWriting = false
  /** What the descriptor had no room for, until it is tried again. */
  #stuck: Buffer | undefined
  #isGone = false

  constructor(fd: number) { this.#fd = fd }

  write(line: string): void {
    if (this.#isGone || this.#waitingChars + line.length > UNREAD_CHARS_MAX) return
    this.#waiting.push(line)
    this.#waitingChars += line.length
    if (!this.#isWriting) this.#send(this.#take(BATCH_CHARS))
  }

  flushSync(): void {
    if (this.#isWriting && !this.#stuck) sleepSync(SETTLE_MS)
    let deadlineMs = performance.now() + FLUSH_MS
    let rest = Buffer.concat([this.#stuck ?? Buffer.alloc(0), this.#take(Infinity)])
    this.#stuck = undefined
    while (rest.length > 0 && !this.#isGone) {
      try {
        rest = rest.subarray(writeSync(this.#fd, rest))
        deadlineMs = performance.now() + FLUSH_MS
      } catch (error) {
        if (isFull(error) && performance.now() < deadlineMs) sleepSync(FLUSH_RETRY_MS)
        else this.#isGone = true
      }
    }
  }

  /** Whole lines, at least one if there is any. */
  #take(chars: number): Buffer {
    let count = 0
    let taken = 0
    while (count < this.#waiting.length && (count === 0 || taken + this.#waiting[count]!.length <= chars)) {
      taken += this.#waiting[count++]!.length
    }
    this.#waitingChars -= taken
    return Buffer.from(this.#waiting.splice(0, count).join(''))
  }

  #send(batch: Buffer): void {
    this.#isWriting = true
    write(this.#fd, batch, 0, batch.length, null, (error, written) => {
      if (error && !isFull(error)) {
        this.#isGone = true
        this.#waiting = []
      } else if (error) {
        this.#stuck = batch
        setTimeout(() => { this.#next(this.#stuck) }, RETRY_MS).unref()
      } else {
        this.#next(batch.subarray(written))
      }
    })
  }

  #next(rest: Buffer | undefined): void {
    this.#stuck = undefined
    if (rest && rest.length > 0) this.#send(rest)
    else if (this.#waiting.length > 0) this.#send(this.#take(BATCH_CHARS))
    else this.#isWriting = false
  }
}

function isFull(error: unknown): boolean { return (error as NodeJS.ErrnoException).code === 'EAGAIN' }

function sleepSync(ms: number): void { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms) }
