/**
 * ComposedSource: what inherited grains read as, as one read-only device: `inside` for the bytes of a range, `outside` for all
 * else. So a restore of a range, or from a shorter snapshot, is exact to the byte although grains are inherited whole.
 *
 * Invariants
 * - Whatever either part does not reach reads as zeros: the volume has grown since.
 * - The parts are closed with it, behind the reads that are under way: a restore ends while clients read what it has copied.
 */
import { allSettled, together } from '../device/all-settled.js'
import type { BlockSizes, Capabilities, Extents, Origin, Pending } from '../device/block-device.js'
import { type BlockDevice, STATE_HOLE, STATE_ZERO } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { ExtentList } from '../device/extent-list.js'

interface Part { readonly device: BlockDevice | undefined, readonly length: number }

export class ComposedSource implements BlockDevice {
  /** Whoever reads knows where its volume ends. */
  readonly sizeBytes = Number.MAX_SAFE_INTEGER
  readonly blockSizes: BlockSizes
  readonly capabilities: Capabilities
  readonly #inside: BlockDevice
  readonly #outside: BlockDevice | undefined
  readonly #start: number
  readonly #end: number
  readonly #reads = new Set<Promise<void>>()

  /** @param outside nothing: zeros */
  constructor(inside: BlockDevice, start: number, end: number, outside: BlockDevice | undefined) {
    this.#inside = inside
    this.#outside = outside
    this.#start = start
    this.#end = Math.min(end, inside.sizeBytes)
    this.blockSizes = inside.blockSizes
    this.capabilities = Object.freeze({ ...inside.capabilities, readOnly: true })
  }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    const pending = this.#read(offset, length, into, at, origin)
    if (!pending) return undefined
    this.#reads.add(pending)
    return pending.finally(() => { this.#reads.delete(pending) })
  }

  #read(offset: number, length: number, into: Buffer, at: number, origin: Origin | undefined): Pending {
    return together(add => {
      for (let done = 0; done < length;) {
        const part = this.#part(offset + done, length - done)
        const place = at + done
        add(part.device ? part.device.read(offset + done, part.length, into, place, origin)
          : void into.fill(0, place, place + part.length))
        done += part.length
      }
    })
  }

  zeroRun(offset: number, length: number): number {
    const part = this.#part(offset, length)
    return part.device ? part.device.zeroRun(offset, part.length) : -part.length
  }

  extents(offset: number, length: number, maxExtents: number): Extents {
    const list = new ExtentList(maxExtents)
    for (let at = offset; at < offset + length;) {
      const run = this.zeroRun(at, offset + length - at)
      if (!list.add(Math.abs(run), run > 0 ? 0 : STATE_HOLE | STATE_ZERO)) break
      at += Math.abs(run)
    }
    return list
  }

  write(): Pending { throw readOnly() }
  zero(): Pending { throw readOnly() }
  trim(): Pending { throw readOnly() }
  flush(): Pending { return undefined }

  async close(): Promise<void> {
    await Promise.allSettled(this.#reads)
    await allSettled([this.#inside.close(), this.#outside?.close()])
  }

  /** From `offset` on, what comes from the same part. */
  #part(offset: number, length: number): Part {
    if (offset >= this.#start && offset < this.#end) {
      return { device: this.#inside, length: Math.min(length, this.#end - offset) }
    }
    const stop = offset < this.#start ? Math.min(length, this.#start - offset) : length
    const reach = this.#outside?.sizeBytes ?? 0
    if (offset >= reach) return { device: undefined, length: stop }
    return { device: this.#outside, length: Math.min(stop, reach - offset) }
  }
}

function readOnly(): NbdeltaError { return new NbdeltaError('read-only', 'what is inherited cannot be written to') }
