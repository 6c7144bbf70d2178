/**
 * ProbeDisk: any BlockDevice with a meter in front of it: how many requests, bytes and errors, and how long they
 * took. Status displays read it, and failure prediction will.
 *
 * A request that completes inline costs two looks at the clock. Latencies fall into buckets of powers of two:
 * bucket i counts those below 2^i microseconds, the last one all the rest.
 */
import type { BlockDevice, Extents, Origin, Pending, ZeroMode } from './block-device.js'
import { type Clock, systemClock } from './clock.js'

export type ProbedOperation = 'read' | 'write' | 'zero' | 'trim' | 'flush'
/** 2^26 us = 67 s; what takes longer falls into the last bucket, too. */
const LATENCY_BUCKETS = 28

export interface ProbeCounts {
  requests: number
  bytes: number
  errors: number
  inFlight: number
  totalMs: number
  slowestMs: number
  readonly buckets: number[]
}

export class ProbeDisk implements BlockDevice {
  readonly #inner: BlockDevice
  readonly #clock: Clock
  readonly #counts: Readonly<Record<ProbedOperation, ProbeCounts>>

  constructor(inner: BlockDevice, options: { readonly clock?: Clock } = {}) {
    this.#inner = inner
    this.#clock = options.clock ?? systemClock
    this.#counts = { read: counts(), write: counts(), zero: counts(), trim: counts(), flush: counts() }
  }

  get sizeBytes(): number { return this.#inner.sizeBytes }
  get blockSizes(): BlockDevice['blockSizes'] { return this.#inner.blockSizes }
  get capabilities(): BlockDevice['capabilities'] { return this.#inner.capabilities }

  /** A snapshot of everything counted so far. */
  stats(): Record<ProbedOperation, ProbeCounts> { return structuredClone(this.#counts) }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    const startMs = this.#begin(this.#counts.read, length)
    try {
      return this.#end(this.#counts.read, startMs, this.#inner.read(offset, length, into, at, origin))
    } catch (error) {
      throw this.#failed(this.#counts.read, startMs, error)
    }
  }

  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    const startMs = this.#begin(this.#counts.write, length)
    try {
      return this.#end(this.#counts.write, startMs, this.#inner.write(offset, length, from, at, origin))
    } catch (error) {
      throw this.#failed(this.#counts.write, startMs, error)
    }
  }

  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    const startMs = this.#begin(this.#counts.zero, length)
    try {
      return this.#end(this.#counts.zero, startMs, this.#inner.zero(offset, length, mode, origin))
    } catch (error) {
      throw this.#failed(this.#counts.zero, startMs, error)
    }
  }

  trim(offset: number, length: number, origin?: Origin): Pending {
    const startMs = this.#begin(this.#counts.trim, length)
    try {
      return this.#end(this.#counts.trim, startMs, this.#inner.trim(offset, length, origin))
    } catch (error) {
      throw this.#failed(this.#counts.trim, startMs, error)
    }
  }

  flush(): Pending {
    const startMs = this.#begin(this.#counts.flush, 0)
    try {
      return this.#end(this.#counts.flush, startMs, this.#inner.flush())
    } catch (error) {
      throw this.#failed(this.#counts.flush, startMs, error)
    }
  }

  prefetch(offset: number, length: number): Pending { return this.#inner.prefetch?.(offset, length) }
  zeroRun(offset: number, length: number): number { return this.#inner.zeroRun(offset, length) }
  extents(offset: number, length: number, maxExtents: number): Extents | Promise<Extents> {
    return this.#inner.extents(offset, length, maxExtents)
  }

  close(): Promise<void> { return this.#inner.close() }

  #begin(counts: ProbeCounts, bytes: number): number {
    counts.requests++
    counts.bytes += bytes
    counts.inFlight++
    return this.#clock.now()
  }

  #end(counts: ProbeCounts, startMs: number, pending: Pending): Pending {
    if (!pending) {
      this.#settle(counts, startMs)
      return undefined
    }
    return pending.then(() => this.#settle(counts, startMs), (error: unknown) => { throw this.#failed(counts, startMs, error) })
  }

  #failed(counts: ProbeCounts, startMs: number, error: unknown): unknown {
    counts.errors++
    this.#settle(counts, startMs)
    return error
  }

  #settle(counts: ProbeCounts, startMs: number): void {
    const tookMs = this.#clock.now() - startMs
    counts.inFlight--
    counts.totalMs += tookMs
    if (tookMs > counts.slowestMs) counts.slowestMs = tookMs
    // The bit length of the microseconds: 0 for none, 1 for 1, 2 for 2 and 3, ...
    const bucket = 32 - Math.clz32(Math.min(tookMs * 1000, 2 ** 31))
    counts.buckets[Math.min(bucket, LATENCY_BUCKETS - 1)]++
  }
}

function counts(): ProbeCounts {
  const buckets = new Array<number>(LATENCY_BUCKETS).fill(0)
  return { requests: 0, bytes: 0, errors: 0, inFlight: 0, totalMs: 0, slowestMs: 0, buckets }
}
