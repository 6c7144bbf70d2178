/**
 * Watchers: those who are told of every change of a volume's content, in the order in which changes of the same bytes happen.
 * Mirrors that do not wait for a point ship that (src/replication/stream.ts).
 *
 * Invariants
 * - A change is told when it has been made and before anything that overlaps it may begin: so at an instant at which nothing is
 *   in flight (a point is taken, a restore is shown) exactly what is in the volume has been told.
 * - It is told to be undone by nobody: a change that failed when something of it may be there already (attempt.ts) leaves content
 *   unknown, and ends the watching with `lost`. One that failed before has changed nothing, and is not told.
 * - What is staged is told when it is taken, before it is with the log's disk: refused there, it was told in vain.
 * - Whatever happens, points mark as always: who was told, and loses it, finds it in the changed maps (X1, S2).
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { both } from '../device/all-settled.js'
import type { BlockDevice, Pending } from '../device/block-device.js'
import type { PointInfo } from './snappoint.js'

export interface ChangeWatcher {
  /** The bytes are the caller's again when this returns. What is pending delays the answer to the client; it never rejects. */
  wrote(offset: number, length: number, from: Buffer, at: number): Pending
  /** It reads as zeros now. Likewise. */
  zeroed(offset: number, length: number): Pending
  /** A flush was asked for, and is done here. Likewise. */
  flushed(): Pending
  /**
   * These grains show what `content` holds, from this instant on; both are the watcher's, which closes `content`.
   * @param point uuid of the snapshot that was restored
   */
  restored(grains: GrainBitmap, content: BlockDevice, point: string): void
  /** It is of this instant. Whether it will be there is known when its making, a turn of the volume's points, has ended. */
  pointed(point: PointInfo): void
  /**
   * Nothing is told any more: what the volume holds is not known from what was told. @param inVain something that was told never
   * was: no changed map has it
   */
  lost(reason: string, inVain: boolean): void
}

export class Watchers {
  readonly #watchers = new Set<ChangeWatcher>()

  get isEmpty(): boolean { return this.#watchers.size === 0 }

  /** Told of what happens from now on. Returns how to end that. */
  add(watcher: ChangeWatcher): () => void {
    this.#watchers.add(watcher)
    return () => { this.#watchers.delete(watcher) }
  }

  wrote(offset: number, length: number, from: Buffer, at: number): Pending {
    return this.#tell(watcher => watcher.wrote(offset, length, from, at))
  }

  zeroed(offset: number, length: number): Pending { return this.#tell(watcher => watcher.zeroed(offset, length)) }

  flushed(): Pending { return this.#tell(watcher => watcher.flushed()) }

  pointed(point: PointInfo): void { for (const watcher of [...this.#watchers]) watcher.pointed(point) }

  /** @param open the content, once for each; undefined: it cannot be had, and nobody knows what these grains hold */
  restored(grains: GrainBitmap, point: string, open: (() => BlockDevice) | undefined): void {
    for (const watcher of [...this.#watchers]) {
      if (open) watcher.restored(grains.clone(), open(), point)
      else this.#lose(watcher, 'the volume was restored from another one')
    }
  }

  /** All of them are. */
  lose(reason: string): void { for (const watcher of [...this.#watchers]) this.#lose(watcher, reason) }

  /** After a change has failed of which something may be seen: what is there is not known. @param inVain it was told already */
  failed(error: unknown, inVain = false): void {
    const reason = `a change failed: ${error instanceof Error ? error.message : String(error)}`
    for (const watcher of [...this.#watchers]) this.#lose(watcher, reason, inVain)
  }

  #lose(watcher: ChangeWatcher, reason: string, inVain = false): void {
    this.#watchers.delete(watcher)
    watcher.lost(reason, inVain)
  }

  #tell(tell: (watcher: ChangeWatcher) => Pending): Pending {
    let pending: Pending
    for (const watcher of this.#watchers) pending = both(pending, tell(watcher))
    return pending
  }
}
