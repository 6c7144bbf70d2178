/**
 * ThreadReserve: most threads of libuv's pool sleep until they are needed.
 *
 * The pool must be large, so that one hung disk cannot take every thread from the others. But each request handed to a pool
 * with a sleeping thread wakes one, and that costs as much as a read from a fast disk: with 16 threads that seldom find the
 * queue empty, cold reads take a third less CPU than with 128. So all but `active` threads are parked: each
 * blocks reading one byte of a pipe that nobody writes.
 *
 *   noteUse() -> while the pool is used, every TICK_MS a trivial request asks whether it still gets through
 *             -> not back at the next tick: the pool is clogged, STEP parked threads are woken, at once and again
 *             -> CALM_TICKS in time: STEP of them are parked again
 *
 * So a clogged pool is open again within two ticks, whatever clogs it. Nothing runs while nobody uses the pool.
 *
 * The pool is one for the process, hence so is this: `threadReserve`, idle until `park` is called. Parked reads keep the
 * process alive and would block its end: whoever parks must call `release`, and `park` sees to it that an exit does.
 */
import { execFile } from 'node:child_process'
import { constants, fstat, mkdtempSync, open, read, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** Enough to keep a fast disk busy (32 requests wait for them), few enough to find work without sleeping. */
const ACTIVE_THREADS = 16
const STEP = 16
const TICK_MS = 15
/** A tick this late says that the loop was busy, and nothing about the pool; so it is excused once. */
const LATE_MS = 10
const CALM_TICKS = 100
/** How long the first request may take behind those that park. */
const VERIFY_MS = 200
/** What libuv makes of a missing UV_THREADPOOL_SIZE, and its upper bound. */
const POOL_DEFAULT = 4
const POOL_MAX = 1024

class ThreadReserve {
  #fd = -1
  #parked = 0
  /** How many shall be parked at rest. */
  #wanted = 0
  #used = false
  #calmTicks = 0
  #probing = false
  #timer: NodeJS.Timeout | undefined
  #dueMs = 0
  #excused = false
  readonly #onExit = (): void => { this.release() }

  /** Threads asleep now; for tests and status. */
  get parked(): number { return this.#parked }

  /**
   * Parks all threads but ACTIVE_THREADS. Where there are not more, or no pipe is to be had, nothing happens. The pool may be
   * smaller than the environment says, when something used it before that was set: then nothing gets through any more, and
   * all are woken again.
   */
  async park(): Promise<void> {
    const threads = Math.min(Number(process.env['UV_THREADPOOL_SIZE'] ?? POOL_DEFAULT), POOL_MAX)
    if (this.#fd >= 0 || !(threads > ACTIVE_THREADS)) return
    const fd = await openPipe()
    if (fd === undefined) return
    this.#fd = fd
    this.#wanted = threads - ACTIVE_THREADS
    process.once('exit', this.#onExit)
    this.#sleep(this.#wanted)
    if (!await this.#getsThrough()) this.release()
  }

  #getsThrough(): Promise<boolean> {
    return new Promise(resolve => {
      const timer = setTimeout(() => resolve(false), VERIFY_MS)
      fstat(this.#fd, () => {
        clearTimeout(timer)
        resolve(true)
      })
    })
  }

  /** A request goes to the pool. Cheap: a flag, and a timer when it was idle. */
  noteUse(): void {
    if (this.#fd < 0) return
    this.#used = true
    if (this.#timer === undefined) this.#later()
  }

  /** Wakes all of them for good. Idempotent. The pipe stays open: woken threads may still be about to read it. */
  release(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#wanted = 0
    this.#wake(this.#parked)
    process.off('exit', this.#onExit)
  }

  #tick(): void {
    this.#timer = undefined
    if (this.#wanted === 0) return
    if (this.#probing && !this.#excused && performance.now() - this.#dueMs > LATE_MS) {
      this.#excused = true
      return this.#later()
    }
    this.#excused = false
    if (this.#probing) {
      this.#calmTicks = 0
      this.#wake(Math.min(STEP, this.#parked))
    } else if (++this.#calmTicks >= CALM_TICKS) {
      this.#calmTicks = 0
      this.#sleep(Math.min(STEP, this.#wanted - this.#parked))
    }
    if (!this.#used && !this.#probing && this.#parked === this.#wanted) return
    this.#used = false
    this.#probe()
    this.#later()
  }

  #later(): void {
    this.#dueMs = performance.now() + TICK_MS
    this.#timer = setTimeout(() => this.#tick(), TICK_MS).unref()
  }

  #probe(): void {
    if (this.#probing) return
    this.#probing = true
    fstat(this.#fd, () => { this.#probing = false })
  }

  #sleep(count: number): void {
    for (let i = 0; i < count; i++) {
      this.#parked++
      read(this.#fd, Buffer.alloc(1), 0, 1, null, () => undefined)
    }
  }

  /** One byte for each; a thread that has not begun to read yet will find its byte there. */
  #wake(count: number): void {
    if (count === 0) return
    writeSync(this.#fd, Buffer.alloc(count))
    this.#parked -= count
  }
}

/** A pipe with both ends in one descriptor, or undefined. Node makes none; mkfifo (coreutils) does. */
async function openPipe(): Promise<number | undefined> {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-'))
  const path = join(folder, 'pipe')
  try {
    await promisify(execFile)('mkfifo', ['-m', '600', path])
    return await promisify(open)(path, constants.O_RDWR)
  } catch {
    return undefined
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

export const threadReserve = new ThreadReserve()

/**
 * For a process that does nothing but serve: parks most threads of the pool (Linux, UV_THREADPOOL_SIZE above 16) until the
 * function it returns is called. Call that before the process is to end by itself.
 */
export async function parkThreads(): Promise<() => void> {
  await threadReserve.park()
  return () => { threadReserve.release() }
}
