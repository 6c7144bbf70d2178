/**
 * BlockDevice: the one seam. Files, memory, volumes, snapshots, remote exports and injected faults all have
 * this shape, and whatever consumes storage (the NBD server, import and export, later RAID and replication)
 * consumes this and nothing else.
 *
 * Contract
 * - Offsets and lengths are bytes, integers, below 2^53. The caller has judged them: `offset + length` never
 *   passes `sizeBytes`, `length >= 1`. A device asserts this; it does not answer politely.
 * - `Pending` is how work completes without a promise on the hot path: `undefined` says "done already",
 *   a promise says "later". A failure is thrown or rejected as a NbdeltaError (see errors.ts), never both.
 * - A buffer handed to `read` or `write` belongs to the device until the call is done. A caller that reuses
 *   its buffer must therefore copy whenever it gets a promise *before* it reuses it; `write` devices that
 *   complete later must have taken what they need from `from` only until the promise settles.
 * - Requests may complete in any order. Overlapping write-class requests on one device are serialised in
 *   arrival order by whoever sits on top of shared state (Volume does; plain disks do not).
 * - `flush` covers every write-class request that had completed before flush was called (PROTOCOL D2).
 */
export type Pending = Promise<void> | undefined

/** Who issued a request; a queued request whose origin is gone is dropped instead of run (PROTOCOL D5). */
export interface Origin {
  readonly gone: boolean
}

export interface BlockSizes {
  /** Smallest unit that may be addressed, bytes; a power of two. 1 = any byte. */
  readonly minimum: number
  /** What performs well, bytes; a power of two, >= 512. */
  readonly preferred: number
  /** Largest payload of one request, bytes. */
  readonly maximum: number
}

export interface Capabilities {
  readonly readOnly: boolean
  /** `trim` gives space back (it may be called regardless). */
  readonly trim: boolean
  /** `zero` with `fast` can succeed: it never costs as much as writing zeros. */
  readonly fastZero: boolean
  readonly rotational: boolean
}

export interface ZeroMode {
  /** The range must stay allocated: a later write there must not fail for lack of space (NBD NO_HOLE). */
  readonly allocate: boolean
  /** Fail with code `not-fast`, contents untouched, rather than be as slow as writing (NBD FAST_ZERO). */
  readonly fast: boolean
}

/** Extents as two parallel arrays, in order, adjacent, merged: lengths in bytes and `base:allocation` state bits. */
export interface Extents {
  readonly lengths: number[]
  /** Bit 0 (1): hole. Bit 1 (2): reads as zeros. 0 = allocated data, always a safe answer. */
  readonly states: number[]
}
export const STATE_HOLE = 1
export const STATE_ZERO = 2

export interface BlockDevice {
  /** Bytes. May grow while the device is open; shrinks only when nobody can write (PROTOCOL Z6). */
  readonly sizeBytes: number
  readonly blockSizes: BlockSizes
  readonly capabilities: Capabilities

  /** Fills `into[at, at + length)` with the content of `[offset, offset + length)`. */
  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending
  /** Writes `from[at, at + length)` to `[offset, offset + length)`. Done = visible to every later read, not yet durable. */
  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending
  /** The range reads as zeros afterwards, exactly, whatever its length (PROTOCOL W1). */
  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending
  /** The range's content is no longer needed; what it reads as afterwards is the device's choice. */
  trim(offset: number, length: number, origin?: Origin): Pending
  /** Everything completed before this call is on stable storage (or this fails, and goes on failing: D7). */
  flush(): Pending
  /** A hint: the range will be read soon. */
  prefetch?(offset: number, length: number): Pending
  /**
   * How far the state at `offset` goes on, without I/O: +n when n bytes (1 <= n <= length) may hold data,
   * -n when n bytes are known to read as zeros. A device that does not know answers `length`.
   */
  zeroRun(offset: number, length: number): number
  /**
   * Allocation states from `offset` on, at most `maxExtents` of them, covering at most `length` bytes, at least one.
   * Answers come from the same map as reads.
   */
  extents(offset: number, length: number, maxExtents: number): Extents | Promise<Extents>
  /** Idempotent. Finishes what runs, does not flush. */
  close(): Promise<void>
}

/** The gate's post-condition, asserted by every device on arrival: the caller has judged this range. */
export function assertRange(device: { readonly sizeBytes: number }, offset: number, length: number): void {
  if (!(offset >= 0 && length >= 1 && offset + length <= device.sizeBytes && Number.isSafeInteger(offset + length))) {
    const range = `[${offset}, ${offset} + ${length})`
    throw new RangeError(`range ${range} outside a device of ${device.sizeBytes} bytes: the caller did not judge it`)
  }
}
