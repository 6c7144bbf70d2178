/**
 * IoTrust: may a call of this kind (reads, or writes) on this disk run inline, on the event loop's own thread?
 *
 * Why: a page-cached read or write costs 1.5-3 us as a synchronous call and 30-50 us through the thread pool. But a
 * synchronous call that has to wait for the medium stops every volume of the process. So inline is a privilege:
 *
 *     probation --(8 fast trips through the pool in a row, begun after the ban)--> inline
 *     inline    --(one call waited >= 5 ms)------------> probation, banned for a back-off
 *     inline    --(waits add up to > 5 % of the time)--> resting for a back-off, then inline again
 *     any       --(a read trip fetched for > 25 ms)----> probation, banned for 40 times as long, at most 10 s: some cached
 *                                                        page will be evicted, and then an inline call would take that long
 *
 * A slow call need not have waited for the disk: on a busy machine the scheduler may have taken the processor away. The
 * kernel's counts tell (`Usage`), compared with the last `sample`. A slow call is excused if since then this process
 * - never slept (no voluntary switch): who does not sleep does not wait; or
 * - for reads: fetched nothing from any block device (where that is counted at all); or
 * - lost the processor at least once, and the call took <= 30 ms.
 * Back-offs double up to 10 s and start small again after a good time.
 *
 * Pure: time and counts come in by argument. Not in here: which part of the disk is cached (touched-regions.ts).
 */

/** Trips in a row that must be fast before a disk is trusted. */
export const PROBATION_TRIPS = 8
/** A trip slower than this does not count as fast: it leaves room for a busy pool, not for a seek plus a queue. */
const FAST_TRIP_MS = 3
/** An inline call may take this much, and 1 ms more for each 512 KiB, before anyone thinks about it: hits take 2-100 us. */
export const SLOW_CALL_MS = 0.1
export const SLOW_CALL_MS_PER_BYTE = 1 / (512 * 1024)
/** A medium that makes a trip this long could break the promise of 50 ms if a call met it inline. */
const SLOW_MEDIUM_MS = 25
const SLOW_MEDIUM_BAN = 40
/** A single wait of this length ends the trust at once. */
const HANG_MS = 5
/** Three to ten others' time slices; any more is a stall, whoever caused it. */
const EXCUSED_MS = 30
/** Waits shorter than HANG_MS fill a bucket of this size, which leaks at LEAK of real time. */
const BUCKET_MS = 10
const LEAK = 0.05
const BACKOFF_FIRST_MS = 20
const BACKOFF_MAX_MS = 10_000
/** Trust that lasted this many back-offs (and a second) makes the next back-off small again. */
const GOOD_TIMES = 8
const GOOD_TIME_MS = 1000

/** What a slow inline call turned out to be; `waited` = the medium was touched, so that part is not cached. */
export type Verdict = 'excused' | 'waited' | 'resting' | 'probation'
export type TrustState = 'probation' | 'inline' | 'resting'

/** What the kernel counts for this process; see getrusage(2). */
export interface Usage {
  readonly voluntaryContextSwitches: number
  readonly involuntaryContextSwitches: number
  /** Blocks fetched by reads; undefined where the kernel does not count them. */
  readonly fsRead: number | undefined
}

export class IoTrust {
  readonly #kind: 'read' | 'write'
  readonly #usage: () => Usage
  #state: TrustState = 'probation'
  /** Inline is allowed from here on; Infinity in probation. */
  #inlineFromMs = Infinity
  #bannedUntilMs = -Infinity
  #fastTrips = 0
  #bucketMs = 0
  #bucketAtMs = 0
  #backoffMs = BACKOFF_FIRST_MS / 2
  #seen: Usage

  constructor(kind: 'read' | 'write', usage: () => Usage) {
    this.#kind = kind
    this.#usage = usage
    this.#seen = usage()
  }

  state(nowMs: number): TrustState {
    return this.#state === 'resting' && nowMs >= this.#inlineFromMs ? 'inline' : this.#state
  }

  /** The hot path's question. */
  allows(nowMs: number): boolean { return nowMs >= this.#inlineFromMs }

  /** To be called now and then (every few hundred inline calls): excuses are sought between the last time and a slow call. */
  sample(usage = this.#usage()): void { this.#seen = usage }

  /**
   * A trip through the pool has ended. `fetched`: the kernel may have read from a block device for it; a trip that did
   * not was slow for lack of a processor only.
   */
  tripDone(tookMs: number, nowMs: number, fetched: boolean): void {
    if (fetched && this.#kind === 'read' && tookMs > SLOW_MEDIUM_MS) {
      this.#probation(Math.max(this.#bannedUntilMs, nowMs + Math.min(tookMs * SLOW_MEDIUM_BAN, BACKOFF_MAX_MS)))
    }
    if (this.#state !== 'probation' || nowMs - tookMs < this.#bannedUntilMs) return
    this.#fastTrips = tookMs <= FAST_TRIP_MS || !fetched ? this.#fastTrips + 1 : 0
    if (this.#fastTrips < PROBATION_TRIPS) return
    this.#state = 'inline'
    this.#inlineFromMs = nowMs
    this.#bucketMs = 0
  }

  /** A trip failed, or something else makes the disk suspicious: back to probation. */
  distrust(nowMs: number): void {
    this.#backOff(nowMs)
    this.#probation(nowMs + this.#backoffMs)
  }

  /** An inline call took longer than SLOW_CALL_MS (and its length's share). */
  slowCall(tookMs: number, nowMs: number): Verdict {
    const before = this.#seen
    this.sample()
    if (this.#excuses(before, this.#seen, tookMs)) return 'excused'
    if (tookMs >= HANG_MS) {
      this.distrust(nowMs)
      return 'probation'
    }
    this.#bucketMs = Math.max(0, this.#bucketMs - (nowMs - this.#bucketAtMs) * LEAK) + tookMs
    this.#bucketAtMs = nowMs
    if (this.#bucketMs <= BUCKET_MS) return 'waited'
    this.#backOff(nowMs)
    this.#state = 'resting'
    this.#inlineFromMs = nowMs + this.#backoffMs
    this.#bucketMs = 0
    return 'resting'
  }

  #probation(bannedUntilMs: number): void {
    this.#state = 'probation'
    this.#inlineFromMs = Infinity
    this.#bannedUntilMs = bannedUntilMs
    this.#fastTrips = 0
  }

  #excuses(before: Usage, after: Usage, tookMs: number): boolean {
    if (after.voluntaryContextSwitches === before.voluntaryContextSwitches) return true
    if (this.#kind === 'read' && after.fsRead !== undefined && after.fsRead === before.fsRead) return true
    return after.involuntaryContextSwitches !== before.involuntaryContextSwitches && tookMs <= EXCUSED_MS
  }

  /** Only called while trusted or failing: how long the trust lasted decides whether the back-off grows. */
  #backOff(nowMs: number): void {
    const lastedMs = nowMs - this.#inlineFromMs
    const good = lastedMs > GOOD_TIMES * this.#backoffMs + GOOD_TIME_MS
    this.#backoffMs = good ? BACKOFF_FIRST_MS : Math.min(this.#backoffMs * 2, BACKOFF_MAX_MS)
  }
}
