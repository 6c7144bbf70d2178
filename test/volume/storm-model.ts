/**
 * What clients of one volume may read, sector by sector (staged-storm.test.ts).
 *
 * An operation gives sectors values at some moment between `start` and `end`, its answer. One that failed may have, or not; it
 * may not later. One that was done supersedes all that had ended when it began, and once a flush that began behind it is
 * answered, also for whoever comes after a power cut. What was read in a quiet moment is an operation as well: it stays.
 *
 * A flush that failed says nothing, and what had ended before it and was not durable may never be: when the disks are opened anew,
 * that is as after a power cut. Sectors behind the end of the volume have the value GONE.
 */
export const SECTOR = 512
/** Behind the end. */
export const GONE = -2

/** Behind everything that may come. */
const OPEN = Infinity

export interface Op {
  readonly what: string
  start: number
  end: number
  state: 'running' | 'done' | 'failed'
  /** By sector. */
  readonly values: ReadonlyMap<number, number>
}

/** What a sector may hold, at an instant. */
export type Allowed = readonly ReadonlySet<number>[]

export class Model {
  #tick = 0
  /** Of each sector, what may be there: now, and after a power cut. */
  readonly #now: Op[][]
  readonly #cut: Op[][]
  /** Done, and not known to be durable. */
  #undurable: Op[] = []
  /** When a flush has failed that clients wait for, if it has, and when of live. */
  #lostAt = Infinity
  #latchedAt = Infinity
  readonly running = new Set<Op>()
  /** Of reads that are on their way: what they may find. */
  readonly reads = new Set<Set<number>[]>()

  /** @param there so many of them at first */
  constructor(readonly sectors: number, there: number) {
    const values = new Map(Array.from({ length: sectors }, (_, i) => [i, i < there ? 0 : GONE]))
    const zeros: Op = { what: 'at first', start: 0, end: 0, state: 'done', values }
    this.#now = Array.from({ length: sectors }, () => [zeros])
    this.#cut = Array.from({ length: sectors }, () => [zeros])
  }

  get tick(): number { return ++this.#tick }

  begin(what: string, values: ReadonlyMap<number, number>): Op {
    const op: Op = { what, start: this.tick, end: OPEN, state: 'running', values }
    this.running.add(op)
    for (const [sector, value] of values) {
      this.#now[sector].push(op)
      this.#cut[sector].push(op)
      for (const read of this.reads) read[sector].add(value)
    }
    return op
  }

  done(op: Op): void {
    this.#over(op, 'done')
    supersede(this.#now, op)
    this.#undurable.push(op)
  }

  failed(op: Op): void { this.#over(op, 'failed') }

  /** It was refused, and has done nothing. */
  never(op: Op): void {
    this.#over(op, 'failed')
    for (const lists of [this.#now, this.#cut]) for (const sector of op.values.keys()) lists[sector] = lists[sector].filter(other => other !== op)
  }

  #over(op: Op, state: Op['state']): void {
    op.state = state
    op.end = this.tick
    this.running.delete(op)
  }

  /** At once, and durably: everything that is not running is behind it. */
  atOnce(op: Op): void {
    op.start = this.tick
    this.done(op)
    this.#durable(other => other === op)
  }

  /** A flush that began at that tick was answered. False: it could not be, for one before it had failed (D7). */
  flushed(start: number): boolean {
    const isLie = this.#undurable.some(op => op.start > this.#latchedAt && op.end < start)
    this.#durable(op => op.end < start)
    return !isLie
  }

  /** A flush of the disk that has what clients write has failed: what was done until now may be lost, whatever flush comes. */
  lost(isLive: boolean): void {
    this.#lostAt = Math.min(this.#lostAt, this.tick)
    if (isLive) this.#latchedAt = Math.min(this.#latchedAt, this.tick)
  }

  #durable(isDurable: (op: Op) => boolean): void {
    for (const op of this.#undurable.filter(isDurable)) supersede(this.#cut, op)
    this.#undurable = this.#undurable.filter(op => !isDurable(op))
  }

  /** Nothing that runs has been answered, nor will be. @param isCut only what is durable is there */
  crashed(isCut: boolean): void {
    for (const op of [...this.running]) this.failed(op)
    this.reads.clear()
    const isLossy = this.#lostAt < Infinity
    this.#lostAt = this.#latchedAt = Infinity
    if (!isCut && !isLossy) return
    for (const [sector, ops] of this.#cut.entries()) this.#now[sector] = [...ops]
    this.#undurable = []
  }

  /** What may be read now; @param but not of this one */
  allowed(but?: Op): Allowed {
    return this.#now.map((ops, sector) => new Set(ops.filter(op => op !== but).map(op => op.values.get(sector)!)))
  }

  /** It was read, and is what is there. */
  found(values: readonly number[], isDurable: boolean): void {
    const op = this.begin('found', new Map(values.entries()))
    op.start = this.tick
    this.done(op)
    if (isDurable) this.#durable(other => other === op)
  }

  /** For messages. */
  tell(sector: number): string {
    const text = (ops: readonly Op[]): string => ops.map(({ what, start, end, state, values }) => `${values.get(sector)} ${what} ${state} ${start}-${end}`).join('; ')
    return `now [${text(this.#now[sector])}], after a power cut [${text(this.#cut[sector])}]`
  }
}

function supersede(lists: Op[][], by: Op): void {
  for (const sector of by.values.keys()) lists[sector] = lists[sector].filter(op => op === by || op.end >= by.start)
}

/** What lies in each of so many sectors: `content`, each all of one value, and nothing behind it. */
export function valuesOf(content: Buffer, sectors: number): number[] {
  return Array.from({ length: sectors }, (_, sector) => {
    if (sector >= content.length / SECTOR) return GONE
    const value = content.readUInt32LE(sector * SECTOR)
    for (let at = sector * SECTOR; at < (sector + 1) * SECTOR; at += 4) if (content.readUInt32LE(at) !== value) return -1
    return value
  })
}

export function contentOf(value: number, bytes: number): Buffer {
  const content = Buffer.alloc(bytes)
  for (let at = 0; at < bytes; at += 4) content.writeUInt32LE(value, at)
  return content
}

export function exactly(content: readonly number[]): Allowed { return content.map(value => new Set([value])) }

/** What grows comes as zeros, which is no change, and of what is cut off nobody asks. */
export function isSame(before: ReadonlySet<number>, after: number): boolean {
  return before.has(after) || after === GONE || (after === 0 && before.has(GONE))
}

/** The size stays: what of the snapshot lies in the range, in itself and in the volume. */
export function restored(
  content: readonly number[], range: { readonly offset: number, readonly length: number } | undefined, sizeBytes: number,
): Map<number, number> {
  const { offset, length } = range ?? { offset: 0, length: sizeBytes }
  const end = Math.min(sizeBytes, offset + length)
  return new Map([...content.entries()].filter(([sector, value]) => value !== GONE && sector * SECTOR >= offset && sector * SECTOR < end))
}
