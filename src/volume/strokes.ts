/**
 * Strokes: what staging.ts has taken and is not with the log's disk yet. Entries of one stroke are written together; when the
 * disk refuses it, they and all behind them never were.
 *
 * Until then what they come over counts: it was answered, and is moved to its place like any newest entry. Else it would be lost,
 * neither there nor in the log, with the stroke.
 */
import type { Staged } from './staged-entry.js'

interface Stroke {
  readonly written: Promise<void>
  /** Number of its first entry. */
  readonly first: number
  /** Its grains in the order in which they came, and what was staged of each before. */
  readonly grains: number[]
  readonly before: (Staged | undefined)[]
}

export class Strokes {
  /** Oldest first. */
  #strokes: Stroke[] = []

  /** An entry that was appended just now. @param newest without it yet */
  add({ sequence, from, to }: Staged, newest: ReadonlyMap<number, Staged>, written: Promise<void>): void {
    let stroke = this.#strokes.at(-1)
    if (stroke?.written !== written) {
      this.#strokes.push(stroke = { written, first: sequence, grains: [], before: [] })
      written.then(() => { this.#strokes.shift() }, () => undefined)
    }
    for (let grain = from; grain < to; grain++) {
      stroke.grains.push(grain)
      stroke.before.push(newest.get(grain))
    }
  }

  /** By grain, the newest entry up to that one, where a newer one is not with the disk; undefined: there is none. */
  older(writtenTo: number): Map<number, Staged | undefined> {
    const older = new Map<number, Staged | undefined>()
    for (const { first, grains, before } of this.#strokes) {
      if (first <= writtenTo) continue
      for (const [i, grain] of grains.entries()) if (!older.has(grain)) older.set(grain, before[i])
    }
    return older
  }

  /** All of them that are not with the disk, newest first: they never were. */
  takeBack(writtenTo: number): readonly Stroke[] {
    const written = this.#strokes.filter(({ first }) => first <= writtenTo).length
    return this.#strokes.splice(written).reverse()
  }
}
