/**
 * TripQueue: reads and writes of one descriptor through the thread pool, completed whatever the kernel returns in
 * pieces. At most TRIPS_MAX run at a time, the rest waits in order, so that one hung disk cannot take every thread
 * of the pool from the others (the launcher makes it 128 threads).
 *
 * A read past the end of the file is zeros: the device's size, not the file's length, says what exists.
 */
import { read as fsRead, write as fsWrite } from 'node:fs'
import type { Clock } from './clock.js'
import { asNbdeltaError, NbdeltaError } from './errors.js'
import { threadReserve } from './thread-reserve.js'

const TRIPS_MAX = 32
/** EINTR and EAGAIN are asked again this often, a millisecond apart. */
const RETRIES_MAX = 1000

export type TripKind = 'read' | 'write'

/** What an ended trip tells: how long it ran (waiting in our queue not counted), and the mark taken when it began. */
export interface TripReport {
  readonly kind: TripKind
  readonly offset: number
  readonly length: number
  readonly tookMs: number
  readonly mark: number | undefined
  readonly failed: boolean
}

export interface TripObserver {
  /** Called as a trip begins; the number comes back in its report. */
  mark(): number | undefined
  ended(report: TripReport): void
}

interface Trip {
  readonly kind: TripKind
  readonly offset: number
  readonly length: number
  readonly buffer: Buffer
  readonly at: number
  readonly resolve: () => void
  readonly reject: (error: NbdeltaError) => void
  done: number
  retries: number
  startedMs: number
  mark: number | undefined
}

/** A call that may simply be made again. */
export function isTransient(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code
  return code === 'EINTR' || code === 'EAGAIN'
}

export class TripQueue {
  readonly #fd: number
  readonly #path: string
  readonly #clock: Clock
  readonly #observer: TripObserver
  readonly #waiting: Trip[] = []
  #waitingFrom = 0
  /** In order of start, so the first is the oldest. */
  readonly #running = new Set<Trip>()
  #oldest: Trip | undefined
  #idleWaiters: (() => void)[] = []

  constructor(fd: number, path: string, clock: Clock, observer: TripObserver) {
    this.#fd = fd
    this.#path = path
    this.#clock = clock
    this.#observer = observer
  }

  /** When the oldest running trip began; Infinity if none runs. */
  get oldestMs(): number { return this.#oldest === undefined ? Infinity : this.#oldest.startedMs }
  /** The mark that trip was given. */
  get oldestMark(): number | undefined { return this.#oldest?.mark }
  get size(): number { return this.#running.size + this.#waiting.length - this.#waitingFrom }

  /** The buffer belongs to the trip until the promise settles. Rejects with a NbdeltaError. */
  run(kind: TripKind, offset: number, length: number, buffer: Buffer, at: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const trip: Trip = { kind, offset, length, buffer, at, resolve, reject, done: 0, retries: 0, startedMs: 0, mark: undefined }
      if (this.#running.size < TRIPS_MAX) this.#start(trip)
      else this.#waiting.push(trip)
    })
  }

  /** Resolves when nothing runs or waits. */
  idle(): Promise<void> {
    return this.#running.size === 0 ? Promise.resolve() : new Promise(resolve => { this.#idleWaiters.push(resolve) })
  }

  #start(trip: Trip): void {
    trip.startedMs = this.#clock.now()
    trip.mark = this.#observer.mark()
    this.#oldest ??= trip
    this.#running.add(trip)
    threadReserve.noteUse()
    this.#call(trip)
  }

  #call(trip: Trip): void {
    const at = trip.at + trip.done
    const length = trip.length - trip.done
    const answer = (error: Error | null, count: number): void => {
      if (error) this.#failed(trip, error)
      else this.#moved(trip, count)
    }
    if (trip.kind === 'read') fsRead(this.#fd, trip.buffer, at, length, trip.offset + trip.done, answer)
    else fsWrite(this.#fd, trip.buffer, at, length, trip.offset + trip.done, answer)
  }

  #moved(trip: Trip, count: number): void {
    trip.done += count
    if (trip.done === trip.length) return this.#end(trip, undefined)
    if (count > 0) return this.#call(trip)
    if (trip.kind === 'write') {
      return this.#end(trip, new NbdeltaError('io', `write to ${this.#path}: the system takes no more bytes`))
    }
    trip.buffer.fill(0, trip.at + trip.done, trip.at + trip.length)
    this.#end(trip, undefined)
  }

  #failed(trip: Trip, error: Error): void {
    if (isTransient(error) && trip.retries++ < RETRIES_MAX) {
      this.#clock.setTimeout(() => this.#call(trip), 1, true)
      return
    }
    this.#end(trip, asNbdeltaError(error, `${trip.kind} ${trip.length} bytes at ${trip.offset} of ${this.#path}`))
  }

  #end(trip: Trip, error: NbdeltaError | undefined): void {
    this.#running.delete(trip)
    if (this.#waitingFrom < this.#waiting.length) this.#startNext()
    this.#oldest = this.#running.values().next().value
    const { kind, offset, length, mark } = trip
    this.#observer.ended({ kind, offset, length, mark, tookMs: this.#clock.now() - trip.startedMs, failed: error !== undefined })
    if (error) trip.reject(error)
    else trip.resolve()
    if (this.#running.size > 0) return
    for (const wake of this.#idleWaiters.splice(0)) wake()
  }

  /** Takes the head of the queue; the array is cut only when half of it is spent, so that a long queue stays linear. */
  #startNext(): void {
    const next = this.#waiting[this.#waitingFrom++]
    if (this.#waitingFrom * 2 >= this.#waiting.length) {
      this.#waiting.splice(0, this.#waitingFrom)
      this.#waitingFrom = 0
    }
    this.#start(next)
  }
}
