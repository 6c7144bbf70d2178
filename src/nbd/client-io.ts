/**
 * ClientIo: what a device does, as requests within the limits of the peer: payloads of at most `sizes.maximum`, lengths of
 * at most 1 GiB elsewhere. Ranges are whole multiples of the peer's minimum block; client-edges.ts sees to that.
 *
 * A long operation keeps a window of requests under way, so that its cost in memory does not grow with its length. It has
 * ended when all requests it began have; the first failure is the one that is told.
 */
import { COMMAND, COMMAND_FLAG } from '../../native-free/nbd/constants.js'
import type { Extents, Origin, ZeroMode } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { ExtentList } from '../device/extent-list.js'
import type { PeerFacts } from './client-facts.js'
import type { ClientPool } from './client-pool.js'
import { ClientRequest } from './client-request.js'

/**
 * Of requests without payload. Compact headers could say 4 GiB, extended ones more; but a peer that has to write its zeros
 * must do one request within the deadline, and 1 GiB in 30 s is what a slow disk can.
 */
const RANGE_BYTES_MAX = 2 ** 30
/** Zeros that are written because the peer has no WRITE_ZEROES. */
const ZEROS = Buffer.alloc(256 * 1024)
const WINDOW = 16

export class ClientIo {
  readonly #pool: ClientPool

  constructor(pool: ClientPool) { this.#pool = pool }

  get facts(): PeerFacts { return this.#pool.facts }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Promise<void> {
    return this.#pieces(offset, length, this.facts.sizes.maximum, (from, bytes) =>
      this.#send(COMMAND.read, 0, from, bytes, { buffer: into, at: at + from - offset }, origin))
  }

  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Promise<void> {
    // PAYLOAD_LEN is a duty under extended headers (E3), and unknown without.
    const flags = this.facts.extended ? COMMAND_FLAG.payloadLen : 0
    return this.#pieces(offset, length, this.facts.sizes.maximum, (start, bytes) =>
      this.#send(COMMAND.write, flags, start, bytes, { buffer: from, at: at + start - offset }, origin))
  }

  /** Rejects with `not-fast`, nothing changed, when it was to be fast and is not. */
  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Promise<void> {
    const { canZero, canFastZero } = this.facts
    if (mode.fast && !canFastZero) return Promise.reject(new NbdeltaError('not-fast', 'the peer does not offer fast zeros'))
    if (!canZero) return this.#writeZeros(offset, length, origin)
    const plain = mode.allocate ? COMMAND_FLAG.noHole : 0
    const send = (from: number, bytes: number, flags: number): Promise<void> =>
      this.#send(COMMAND.writeZeroes, flags, from, bytes, undefined, origin)
    if (!mode.fast) return this.#pieces(offset, length, RANGE_BYTES_MAX, (from, bytes) => send(from, bytes, plain))
    const fast = plain | COMMAND_FLAG.fastZero
    const first = Math.min(length, RANGE_BYTES_MAX)
    if (first === length) return send(offset, length, fast)
    // The first piece decides. What is refused later has company that was zeroed already, and is zeroed slowly.
    return this.held(async () => {
      await send(offset, first, fast)
      await this.#pieces(offset + first, length - first, RANGE_BYTES_MAX, (from, bytes) =>
        send(from, bytes, fast).catch((error: unknown) => {
          if (error instanceof NbdeltaError && error.code === 'not-fast') return send(from, bytes, plain)
          throw error
        }))
    })
  }

  #writeZeros(offset: number, length: number, origin: Origin | undefined): Promise<void> {
    const { minimum, maximum } = this.facts.sizes
    const most = Math.max(minimum, Math.min(maximum, ZEROS.length))
    return this.#pieces(offset, length, most, (from, bytes) => this.write(from, bytes, ZEROS, 0, origin))
  }

  /** A peer that cannot trim is not asked. */
  trim(offset: number, length: number, origin?: Origin): Promise<void> {
    if (!this.facts.canTrim) return Promise.resolve()
    return this.#pieces(offset, length, RANGE_BYTES_MAX, (from, bytes) =>
      this.#send(COMMAND.trim, 0, from, bytes, undefined, origin))
  }

  prefetch(offset: number, length: number): Promise<void> {
    if (!this.facts.canCache) return Promise.resolve()
    return this.#pieces(offset, length, this.facts.sizes.maximum, (from, bytes) => this.#send(COMMAND.cache, 0, from, bytes))
  }

  flush(): Promise<void> {
    return this.facts.canFlush ? this.#send(COMMAND.flush, 0, 0, 0) : Promise.resolve()
  }

  /** Without status, and when the peer refuses to tell, all is data: always a safe answer (C9). */
  async extents(offset: number, length: number, maxExtents: number): Promise<Extents> {
    const bytes = Math.min(length, RANGE_BYTES_MAX)
    const list = new ExtentList(maxExtents)
    if (this.facts.contextId !== undefined) {
      const flags = maxExtents === 1 ? COMMAND_FLAG.reqOne : 0
      const request = new ClientRequest(COMMAND.blockStatus, flags, offset, bytes, undefined, undefined, list)
      try {
        await this.#pool.submit(request)
        return list
      } catch (error) {
        if (request.errno === 0) throw error
      }
    }
    return { lengths: [bytes], states: [0] }
  }

  #send(
    type: number, flags: number, offset: number, length: number, bytes?: { buffer: Buffer, at: number }, origin?: Origin,
  ): Promise<void> {
    return this.#pool.submit(new ClientRequest(type, flags, offset, length, bytes, origin))
  }

  /** `run` for each piece of at most `most` bytes, `WINDOW` of them at a time. */
  #pieces(offset: number, length: number, most: number, run: (offset: number, length: number) => Promise<void>): Promise<void> {
    if (length <= most) return run(offset, length)
    const end = offset + length
    let at = offset
    let failed = false
    const work = async (): Promise<void> => {
      while (at < end && !failed) {
        const from = at
        at = Math.min(end, at + most)
        try {
          await run(from, at - from)
        } catch (error) {
          failed = true
          throw error
        }
      }
    }
    return this.held(async () => {
      const results = await Promise.allSettled(Array.from({ length: WINDOW }, work))
      for (const result of results) if (result.status === 'rejected') throw result.reason
    })
  }

  /** `close` waits for it, also while it is between two requests. */
  async held(work: () => Promise<void>): Promise<void> {
    this.#pool.hold()
    try {
      await work()
    } finally {
      this.#pool.release()
    }
  }
}
