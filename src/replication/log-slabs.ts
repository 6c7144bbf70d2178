/**
 * Log slabs: memory for what one stream has to send. A change is copied into it when it is made, so that nobody has to wait for
 * it to be sent, and its place is used again when it has arrived.
 *
 *   slab  | arrived | waits | arrived | waits |.... room ....|        used again, from its front, when nothing in it waits
 *
 * - Memory that is given up instead of used again costs more than the copy: it counts as garbage of its whole size, and at a
 *   hundred megabytes a second the collector goes through everything several times a second for it.
 * - What is large has memory of its own, which is given up.
 * - SPARE_SLABS wait to be used again; what a burst has filled beyond that is given up as it arrives.
 */

const SLAB_BYTES = 256 * 1024
/** A larger change would leave too much of a slab unused. */
const SHARED_BYTES = SLAB_BYTES / 4
const SPARE_SLABS = 16

class Slab {
  readonly buffer = Buffer.allocUnsafeSlow(SLAB_BYTES)
  used = 0
  /** Changes in it that have not arrived. */
  waiting = 0
}

/** Where a copy lies. */
export interface Kept {
  readonly buffer: Buffer
  readonly at: number
  readonly slab: Slab | undefined
}

export class LogSlabs {
  #slab = new Slab()
  readonly #spare: Slab[] = []

  /** A copy of `length` bytes at `at`. */
  keep(from: Buffer, at: number, length: number): Kept {
    if (length > SHARED_BYTES) return { buffer: Buffer.from(from.subarray(at, at + length)), at: 0, slab: undefined }
    if (this.#slab.used + length > SLAB_BYTES) this.#slab = this.#spare.pop() ?? new Slab()
    const slab = this.#slab
    const place = slab.used
    from.copy(slab.buffer, place, at, at + length)
    slab.used += length
    slab.waiting++
    return { buffer: slab.buffer, at: place, slab }
  }

  /** Nobody reads it any more. Once for each. */
  free({ slab }: Kept): void {
    if (!slab || --slab.waiting > 0) return
    slab.used = 0
    if (slab !== this.#slab && this.#spare.length < SPARE_SLABS) this.#spare.push(slab)
  }
}
