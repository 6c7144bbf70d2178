/**
 * NaiveVolume: what a volume with snapshots, bookmarks, restores and clones is, told with whole copies. It shares no code with
 * the product and knows none of its words but grain: no ditto, no preserved file, no journal, no map.
 *
 * - `live` is one buffer, replaced by every operation and never changed, so that a copy of it is a reference.
 * - A snapshot keeps live as it was. A bookmark keeps what changed and no more.
 * - What changed since a point: `must` = content of the grain changed in some step since; `may` = some operation since reached it. An exact
 *   product says something in between. After a crash a product may say more of points that were there (`doubtful`).
 * - Whole grains that are trimmed read as zeros; parts of grains stay. What a resize cuts off is gone and comes back as zeros.
 * - A clone is a volume of its own (`heir`) and holds its snapshot: that cannot be deleted.
 */
export type NaiveKind = 'snapshot' | 'bookmark'

export interface NaivePoint {
  readonly name: string
  readonly kind: NaiveKind
  /** Of snapshots: everything. */
  readonly content: Buffer
  /** Between this point and the next. */
  readonly must: ReadonlySet<number>
  readonly may: ReadonlySet<number>
  /** A crash happened while it was there. */
  readonly doubtful: boolean
  readonly held: readonly string[]
}

export interface NaiveChanges {
  readonly must: ReadonlySet<number>
  readonly may: ReadonlySet<number>
  readonly exact: boolean
}

export class NaiveVolume {
  live: Buffer
  /** A clone of one of its snapshots, perhaps promoted. */
  heir: NaiveVolume | undefined
  /** Oldest first. */
  points: readonly NaivePoint[] = []

  constructor(readonly grain: number, content: Buffer) { this.live = content }

  /** Independent from now on. */
  fork(): NaiveVolume {
    const twin = new NaiveVolume(this.grain, this.live)
    twin.points = this.points
    twin.heir = this.heir?.fork()
    return twin
  }

  get grains(): number { return Math.ceil(this.live.length / this.grain) }

  write(offset: number, data: Buffer): void {
    const next = Buffer.from(this.live)
    data.copy(next, offset)
    this.#become(next, offset, offset + data.length)
  }

  zero(offset: number, length: number): void { this.write(offset, Buffer.alloc(length)) }

  trim(offset: number, length: number): void {
    const end = offset + length
    const next = Buffer.from(this.live)
    for (let at = 0; at < this.live.length; at += this.grain) {
      const stop = Math.min(at + this.grain, this.live.length)
      if (at >= offset && stop <= end) next.fill(0, at, stop)
    }
    this.#become(next, offset, end)
  }

  resize(sizeBytes: number): void {
    const before = this.live.length
    const next = Buffer.alloc(sizeBytes)
    this.live.copy(next)
    this.#become(next, Math.min(before, sizeBytes), Math.max(before, sizeBytes))
  }

  create(name: string, kind: NaiveKind): void {
    if (this.find(name)) throw new Error(`${name} exists`)
    this.points = [...this.points, { name, kind, content: this.live, must: new Set(), may: new Set(), doubtful: false, held: [] }]
  }

  /** Any of them, in any order. */
  delete(name: string): void {
    const index = this.points.findIndex(point => point.name === name)
    if (index < 0 || this.points[index].held.length > 0) throw new Error(`${name} cannot be deleted`)
    const { must, may, doubtful } = this.points[index]
    this.points = this.points.flatMap((point, i) => {
      if (i === index) return []
      if (i !== index - 1) return [point]
      return [{ ...point, must: union(point.must, must), may: union(point.may, may), doubtful: point.doubtful || doubtful }]
    })
  }

  hold(name: string, owner: string): void {
    this.points = this.points.map(point => point.name === name ? { ...point, held: [...point.held, owner] } : point)
  }

  release(owner: string): void {
    this.points = this.points.map(point => ({ ...point, held: point.held.filter(other => other !== owner) }))
  }

  /** A restore from it would change something. */
  differs(name: string): boolean {
    const { content } = this.known(name)
    const length = Math.min(content.length, this.live.length)
    return !content.subarray(0, length).equals(this.live.subarray(0, length))
  }

  /**
   * [offset, end) of live becomes what the snapshot froze; what lies behind the snapshot's end stays as it is. How live was
   * before becomes the snapshot `undo`.
   */
  restore(name: string, undo: string, offset = 0, end = this.live.length): void {
    const { content } = this.known(name)
    const { may } = this.changes(name)
    this.create(undo, 'snapshot')
    const next = Buffer.from(this.live)
    if (offset < content.length) content.copy(next, offset, offset, Math.min(content.length, end))
    const before = this.live
    this.live = next
    this.#note(differing(before, next, this.grain), may)
  }

  /** A writable volume with the snapshot's content and no points. */
  clone(name: string): void {
    this.heir = new NaiveVolume(this.grain, this.known(name).content)
    this.hold(name, 'clone')
  }

  /** The clone stands alone: its snapshot may go. */
  promote(): void { this.release('clone') }

  /** All that a crash may make less exact. */
  crash(): void { this.points = this.points.map(point => ({ ...point, doubtful: true })) }

  find(name: string): NaivePoint | undefined { return this.points.find(point => point.name === name) }

  known(name: string): NaivePoint {
    const point = this.find(name)
    if (!point) throw new Error(`there is no ${name}`)
    return point
  }

  /** Between `since` and `until`, a newer point, or now. */
  changes(since: string, until?: string): NaiveChanges {
    const from = this.points.findIndex(point => point.name === since)
    const to = until === undefined ? this.points.length : this.points.findIndex(point => point.name === until)
    if (from < 0 || to < from) throw new Error(`no changes from ${since} to ${until}`)
    const between = this.points.slice(from, to)
    const none: ReadonlySet<number> = new Set()
    const limit = until === undefined ? this.grains : Math.ceil(this.points[to].content.length / this.grain)
    const within = (set: ReadonlySet<number>): Set<number> => new Set([...set].filter(grain => grain < limit))
    return {
      must: within(between.reduce((sum, { must }) => union(sum, must), none)),
      may: within(between.reduce((sum, { may }) => union(sum, may), none)),
      exact: between.every(({ doubtful }) => !doubtful),
    }
  }

  /** The grains of the delta that turns the content of snapshot `from` into that of `to`; either order. */
  delta(from: string, to: string): Map<number, Buffer> {
    const [a, b] = [this.known(from).content, this.known(to).content]
    const found = new Map<number, Buffer>()
    for (const grain of differing(a, b, this.grain)) {
      if (grain * this.grain < b.length) found.set(grain, b.subarray(grain * this.grain, (grain + 1) * this.grain))
    }
    return found
  }

  #become(next: Buffer, offset: number, end: number): void {
    const before = this.live
    this.live = next
    const reached = new Set<number>()
    for (let grain = Math.floor(offset / this.grain); grain * this.grain < end; grain++) reached.add(grain)
    this.#note(differing(before, next, this.grain), reached)
  }

  #note(must: ReadonlySet<number>, may: ReadonlySet<number>): void {
    const newest = this.points.at(-1)
    if (!newest) return
    this.points = [...this.points.slice(0, -1), { ...newest, must: union(newest.must, must), may: union(newest.may, union(may, must)) }]
  }
}

/** Grains whose bytes differ, what one of them lacks counting as zeros. */
export function differing(a: Buffer, b: Buffer, grain: number): Set<number> {
  const found = new Set<number>()
  for (let at = 0; at < Math.max(a.length, b.length); at += grain) {
    const [left, right] = [a.subarray(at, at + grain), b.subarray(at, at + grain)]
    const shorter = Math.min(left.length, right.length)
    const same = left.subarray(0, shorter).equals(right.subarray(0, shorter))
    const rest = (left.length > right.length ? left : right).subarray(shorter)
    if (!same || rest.some(byte => byte !== 0)) found.add(at / grain)
  }
  return found
}

function union(a: ReadonlySet<number>, b: ReadonlySet<number>): ReadonlySet<number> {
  return b.size === 0 ? a : a.size === 0 ? b : new Set([...a, ...b])
}
