/**
 * PointIndex: the content of the table of points in memory, and the rules its entries obey together.
 *
 * Invariants
 * - `apply` makes a change whole, or throws and leaves the index useless; `with` makes it on a copy that shares what does not
 *   change (maps of volumes are copied when they are changed, that of uuids is edited by `settle`), so that a change that is
 *   refused, or does not reach the disk, has changed nothing. Once `settle` was called, the index it came from is not used.
 * - `jsonBytes` is what all entries take as JSON, one byte each added: what a snapshot must have room for.
 */
import { NbdeltaError } from '../device/errors.js'
import type { GroupEntry, MirrorEntry, PointEntry, TableChange, VolumeState } from './point-entry.js'

export const POINTS_MAX = 20_000
export const POINTS_PER_VOLUME_MAX = 1024
export const GROUPS_MAX = 1000
export const MIRRORS_MAX = 1000

interface VolumePoints {
  /** The highest number ever used. */
  mark: number
  /** In ascending order: new ones are higher than all before. */
  readonly bySeq: Map<number, PointEntry>
  /** Ready ones. */
  readonly byName: Map<string, PointEntry>
}

type Content = Readonly<Record<'points' | 'marks' | 'volumes' | 'groups' | 'mirrors', readonly object[]>>

export class PointIndex {
  #volumes = new Map<string, VolumePoints>()
  /** Shared with the index that this one was made from. */
  #byUuid = new Map<string, PointEntry>()
  /** Over it, until `settle`; undefined: gone. */
  #uuidEdits = new Map<string, PointEntry | undefined>()
  #pointCount = 0
  #states = new Map<string, VolumeState>()
  #groups = new Map<string, GroupEntry>()
  /** By uuid. */
  #mirrors = new Map<string, MirrorEntry>()
  #jsonBytes = 0
  /** Volumes whose maps belong to this index alone. Undefined: all do. */
  #own: Set<string> | undefined

  get pointCount(): number { return this.#pointCount }
  get jsonBytes(): number { return this.#jsonBytes }

  list(volume: string): PointEntry[] { return [...this.#volumes.get(volume)?.bySeq.values() ?? []] }
  byName(volume: string, name: string): PointEntry | undefined { return this.#volumes.get(volume)?.byName.get(name) }
  bySeq(volume: string, seq: number): PointEntry | undefined { return this.#volumes.get(volume)?.bySeq.get(seq) }
  byUuid(uuid: string): PointEntry | undefined {
    return this.#uuidEdits.has(uuid) ? this.#uuidEdits.get(uuid) : this.#byUuid.get(uuid)
  }
  mark(volume: string): number { return this.#volumes.get(volume)?.mark ?? 0 }
  state(volume: string): VolumeState { return this.#states.get(volume) ?? { volume, inherit: null, schedule: null } }
  states(): VolumeState[] { return [...this.#states.values()] }
  group(name: string): GroupEntry | undefined { return this.#groups.get(name) }
  groups(): GroupEntry[] { return [...this.#groups.values()].sort((a, b) => a.name < b.name ? -1 : 1) }

  mirrors(): MirrorEntry[] { return [...this.#mirrors.values()].sort((a, b) => a.name < b.name ? -1 : 1) }

  /** Uuids of all volumes that are spoken of. */
  volumes(): string[] {
    const members = [...this.#groups.values()].flatMap(group => group.volumes)
    const mirrored = [...this.#mirrors.values()].map(({ volume }) => volume)
    return [...new Set([...this.#volumes.keys(), ...this.#states.keys(), ...members, ...mirrored])]
  }

  knows(volume: string): boolean {
    if (this.#volumes.has(volume) || this.#states.has(volume)) return true
    return this.volumes().includes(volume)
  }

  /** All of it: applied to an empty index in this order (a point may not come after a mark above it) it gives this one. */
  content(): Content {
    return {
      points: [...this.#volumes.values()].flatMap(({ bySeq }) => [...bySeq.values()]),
      marks: [...this.#volumes].map(([volume, { mark }]) => ({ volume, seq: mark })),
      volumes: this.states(),
      groups: this.groups(),
      mirrors: this.mirrors(),
    }
  }

  /** What of a change is not so already. */
  needed(change: TableChange): TableChange {
    const { removePoints, points, volumes, groups, removeGroups, mirrors, removeMirrors } = change
    const parts = {
      removePoints: removePoints?.filter(({ volume, seq }) => this.bySeq(volume, seq) || this.mark(volume) < seq),
      points: points?.filter(point => !same(this.bySeq(point.volume, point.seq), point)),
      volumes: volumes?.filter(state => !same(this.state(state.volume), state)),
      groups: groups?.filter(group => !same(this.#groups.get(group.name), group)),
      removeGroups: removeGroups?.filter(name => this.#groups.has(name)),
      mirrors: mirrors?.filter(mirror => !same(this.#mirrors.get(mirror.uuid), mirror)),
      removeMirrors: removeMirrors?.filter(uuid => this.#mirrors.has(uuid)),
    }
    return Object.fromEntries(Object.entries(parts).filter(([, list]) => list !== undefined && list.length > 0))
  }

  /** This index after the change; this one stays as it is. Errors: bad-argument, exists, no-space. */
  with(change: TableChange): PointIndex {
    const next = new PointIndex()
    next.#volumes = new Map(this.#volumes)
    next.#byUuid = this.#byUuid
    next.#pointCount = this.#pointCount
    next.#states = new Map(this.#states)
    next.#groups = new Map(this.#groups)
    next.#mirrors = new Map(this.#mirrors)
    next.#jsonBytes = this.#jsonBytes
    next.#own = new Set()
    next.apply(change)
    return next
  }

  /** This index takes the place of the one it was made from. */
  settle(): this {
    for (const [uuid, point] of this.#uuidEdits) {
      if (point) this.#byUuid.set(uuid, point)
      else this.#byUuid.delete(uuid)
    }
    this.#uuidEdits.clear()
    return this
  }

  /** Errors: bad-argument, exists, no-space. */
  apply(change: TableChange): void {
    for (const volume of change.removeVolumes ?? []) this.#removeVolume(volume)
    for (const name of change.removeGroups ?? []) this.#setGroup(name, undefined)
    for (const uuid of change.removeMirrors ?? []) this.#removeMirror(uuid)
    for (const { volume, seq } of change.removePoints ?? []) {
      this.#drop(volume, seq)
      this.#raise(volume, seq)
    }
    // Old entries make room for names first, so that two points can change names in one go.
    for (const { volume, seq } of change.points ?? []) this.#unname(volume, seq)
    for (const point of change.points ?? []) this.#putPoint(point)
    for (const { volume, seq } of change.marks ?? []) this.#raise(volume, seq)
    for (const state of change.volumes ?? []) this.#setState(state)
    for (const group of change.groups ?? []) this.#setGroup(group.name, group)
    if (this.#pointCount > POINTS_MAX) throw full(`the store has ${POINTS_MAX} points, which is its limit`)
    for (const mirror of change.mirrors ?? []) this.#putMirror(mirror)
    if (this.#groups.size > GROUPS_MAX) throw full(`the store has ${GROUPS_MAX} groups, which is its limit`)
    if (this.#mirrors.size > MIRRORS_MAX) throw full(`the store has ${MIRRORS_MAX} mirrors, which is its limit`)
  }

  #putPoint(point: PointEntry): void {
    const { volume, seq, uuid, name } = point
    const mine = this.#mine(volume)
    const before = mine.bySeq.get(seq)
    const other = this.byUuid(uuid)
    if (other && (other.volume !== volume || other.seq !== seq)) {
      throw new NbdeltaError('exists', `there is a point ${uuid} already: ${other.seq} of volume ${other.volume}`)
    }
    if (before) refuseOther(before, point)
    else if (seq <= mine.mark) {
      throw new NbdeltaError('bad-argument', `point ${seq} of volume ${volume}: the number was used before`)
    }
    const namesake = mine.byName.get(name)
    if (point.state === 'ready' && namesake) {
      throw new NbdeltaError('exists', `the volume has a point '${name}' already`)
    }
    if (before) this.#count(before, -1)
    else this.#pointCount++
    this.#count(point, 1)
    mine.bySeq.set(seq, point)
    if (point.state === 'ready') mine.byName.set(name, point)
    this.#uuidEdits.set(uuid, point)
    if (mine.bySeq.size > POINTS_PER_VOLUME_MAX) {
      throw full(`the volume has ${POINTS_PER_VOLUME_MAX} points, which is its limit`)
    }
    this.#raise(volume, seq)
  }

  #unname(volume: string, seq: number): void {
    const mine = this.#mine(volume)
    const before = mine.bySeq.get(seq)
    if (before && mine.byName.get(before.name) === before) mine.byName.delete(before.name)
  }

  #drop(volume: string, seq: number): void {
    const before = this.bySeq(volume, seq)
    if (!before) return
    this.#unname(volume, seq)
    this.#mine(volume).bySeq.delete(seq)
    this.#uuidEdits.set(before.uuid, undefined)
    this.#pointCount--
    this.#count(before, -1)
  }

  #raise(volume: string, seq: number): void {
    const mine = this.#mine(volume)
    mine.mark = Math.max(mine.mark, seq)
  }

  #setState(state: VolumeState): void {
    const before = this.#states.get(state.volume)
    if (before) this.#count(before, -1)
    if (state.inherit === null && state.schedule === null && !state.space) {
      this.#states.delete(state.volume)
      return
    }
    this.#states.set(state.volume, state)
    this.#count(state, 1)
  }

  #setGroup(name: string, group: GroupEntry | undefined): void {
    const before = this.#groups.get(name)
    if (before) this.#count(before, -1)
    this.#groups.delete(name)
    if (!group) return
    this.#groups.set(name, group)
    this.#count(group, 1)
  }

  #putMirror(mirror: MirrorEntry): void {
    for (const { uuid, name } of this.#mirrors.values()) {
      if (name === mirror.name && uuid !== mirror.uuid) throw new NbdeltaError('exists', `there is a mirror '${name}' already`)
    }
    this.#removeMirror(mirror.uuid)
    this.#mirrors.set(mirror.uuid, mirror)
    this.#count(mirror, 1)
  }

  #removeMirror(uuid: string): void {
    const before = this.#mirrors.get(uuid)
    if (before) this.#count(before, -1)
    this.#mirrors.delete(uuid)
  }

  #removeVolume(volume: string): void {
    for (const { seq } of this.list(volume)) this.#drop(volume, seq)
    if (this.#volumes.delete(volume)) this.#jsonBytes -= MARK_BYTES
    this.#own?.delete(volume)
    this.#setState({ volume, inherit: null, schedule: null })
    for (const mirror of this.mirrors()) if (mirror.volume === volume) this.#removeMirror(mirror.uuid)
    for (const group of this.groups()) {
      if (!group.volumes.includes(volume)) continue
      this.#setGroup(group.name, { ...group, volumes: group.volumes.filter(uuid => uuid !== volume) })
    }
  }

  /** The volume's maps, to be changed. */
  #mine(volume: string): VolumePoints {
    const there = this.#volumes.get(volume)
    if (there && (!this.#own || this.#own.has(volume))) return there
    if (!there) this.#jsonBytes += MARK_BYTES
    const mine = there ? { mark: there.mark, bySeq: new Map(there.bySeq), byName: new Map(there.byName) }
      : { mark: 0, bySeq: new Map<number, PointEntry>(), byName: new Map<string, PointEntry>() }
    this.#volumes.set(volume, mine)
    this.#own?.add(volume)
    return mine
  }

  #count(entry: object, sign: 1 | -1): void { this.#jsonBytes += sign * (Buffer.byteLength(JSON.stringify(entry)) + 1) }
}

/** `{"volume":"...","seq":...},` at its longest. */
const MARK_BYTES = 80

function same(before: object | undefined, after: object): boolean {
  return before !== undefined && JSON.stringify(before) === JSON.stringify(after)
}

function refuseOther(before: PointEntry, after: PointEntry): void {
  for (const key of ['uuid', 'kind', 'createdAt', 'sizeBytes', 'group'] as const) {
    if (before[key] !== after[key]) {
      throw new NbdeltaError('bad-argument', `point ${before.seq} of volume ${before.volume}: its ${key} cannot change`)
    }
  }
}

function full(message: string): NbdeltaError { return new NbdeltaError('no-space', message) }
