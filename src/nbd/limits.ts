/**
 * Every limit of the server, as one object of named numbers (DESIGN S7). All of them may be set; the defaults stand below
 * with their arithmetic. Memory: whatever clients do, slabs in use never exceed `memoryBytes`, because
 *
 *   connections x allotmentBytes (taken at accept, 1,024 x 48 KiB = 48 MiB) + shared part (the rest) <= memoryBytes
 *
 * and one connection never holds more than allotmentBytes + connectionBytes of it.
 */
import { NbdeltaError } from '../device/errors.js'

const KIB = 1024
const MIB = 1024 * KIB

/** A small slab: receive buffer of a quiet connection, and what a connection falls back to when the budget is spent. */
export const SMALL_SLAB_BYTES = 16 * KIB
/**
 * A large slab. 64 replies or requests of 4 KiB with their headers (64 x (4,096 + 32) = 264,192) or one reply of 256 KiB,
 * and room to spare; it stays within a 1 MiB second-level cache together with its twin on the other side.
 */
export const LARGE_SLAB_BYTES = 272 * KIB
/** The largest option that is buffered (1 MiB of metadata queries) with its header. */
export const HUGE_SLAB_BYTES = MIB + 8 * KIB
/** Received, received while the first is pinned by a write that completes later, and reply. */
export const ALLOTMENT_BYTES = 3 * SMALL_SLAB_BYTES

export interface ServerLimits {
  /** Simultaneous connections; more are refused at accept. */
  readonly connections: number
  /** Bytes of buffers of all connections together. */
  readonly memoryBytes: number
  /** Bytes of buffers of one connection, above its guaranteed allotment. */
  readonly connectionBytes: number
  /** Requests of one connection that the device has not completed yet (PROTOCOL Z7). */
  readonly inFlight: number
  /** No new request is begun while more than this many reply bytes wait for a client that does not read. */
  readonly backlogBytes: number
  /** From accept to a valid GO or EXPORT_NAME, in milliseconds (H6). */
  readonly handshakeMs: number
  /** Options per handshake (O12). */
  readonly options: number
  /** Buffered data of one option, and of one metadata option; longer ones are discarded and refused (O3). */
  readonly optionBytes: number
  readonly metaOptionBytes: number
  /** An option longer than this is an attack: hard drop (O3). */
  readonly optionDropBytes: number
  /** Largest payload of one request that is served, whatever was advertised (Z4); a longer WRITE is a hard drop. */
  readonly payloadBytes: number
  /** Extents in one block status reply; never above 2^20 (B2), and what fits a large slab: 16,384 x 16 bytes = 256 KiB. */
  readonly extents: number
}

export const DEFAULT_LIMITS: ServerLimits = Object.freeze({
  connections: 1024,
  memoryBytes: 64 * MIB,
  connectionBytes: 2 * MIB,
  inFlight: 64,
  backlogBytes: 512 * KIB,
  handshakeMs: 10_000,
  options: 256,
  optionBytes: 64 * KIB,
  metaOptionBytes: MIB,
  optionDropBytes: 32 * MIB,
  payloadBytes: 64 * MIB,
  extents: 16_384,
})

/** The limits to run with. Unknown names, and numbers that are not positive integers, are refused with `bad-argument`. */
export function resolveLimits(given: Partial<ServerLimits> = {}): ServerLimits {
  for (const [name, value] of Object.entries(given)) {
    if (!(name in DEFAULT_LIMITS)) throw new NbdeltaError('bad-argument', `there is no limit called ${name}`)
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new NbdeltaError('bad-argument', `limit ${name} must be a positive integer, not ${value}`)
    }
  }
  const limits = { ...DEFAULT_LIMITS, ...given }
  if (limits.memoryBytes < ALLOTMENT_BYTES) {
    throw new NbdeltaError('bad-argument', `limit memoryBytes must be at least ${ALLOTMENT_BYTES}, the needs of one connection`)
  }
  const mostExtents = DEFAULT_LIMITS.extents
  if (limits.extents > mostExtents) throw new NbdeltaError('bad-argument', `limit extents must be at most ${mostExtents}`)
  return Object.freeze(limits)
}
