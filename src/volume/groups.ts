/**
 * Groups: volumes under one name, points of all of them made at one instant, and all of them restored at one.
 *
 *   1. in turn     no other change of the points of any member until the end; members in order of uuid, as everybody takes them
 *   2. prepare     folders and empty maps, durable; nobody waits yet
 *   3. hold        each member's whole-volume lock, in that order; when the last one is held the instant is there, for all
 *   4. settle, take, release, secure each (point-creation.ts)
 *   5. put         one record names all new points: now they exist
 *
 * The instant is consistent: a write that was sent after another was answered cannot be in any point without that other. For
 * the first was answered before its volume's lock was free to take, and all locks are held together once.
 *
 * Failure anywhere before 5 is durable: none of the points exists, and those taken already are merged away. A crash likewise.
 * A restore goes the same way (restore-switch.ts), holding all until its one record is durable and all views have switched.
 */
import { randomUUID } from 'node:crypto'
import { allSettled } from '../device/all-settled.js'
import { NbdeltaError } from '../device/errors.js'
import { Turns } from '../device/turns.js'
import type { PointTable } from '../store/point-table.js'
import type { InheritJob } from './copier.js'
import { createPoints, type NewPoint } from './point-creation.js'
import { entryOf } from './point-disk.js'
import type { PointRecord } from './point-store.js'
import type { VolumePoints } from './points.js'
import { type Inheritor, type RestoreOptions, restoreOver } from './restore.js'
import { type RestoreSource, type RestoreSwitch, switchTogether } from './restore-switch.js'
import type { CreatePointOptions, PointInfo } from './snappoint.js'

/** Names of volumes, ascending. */
export interface VolumeGroup { readonly name: string, readonly volumes: readonly string[] }
export interface GroupPoint { readonly volume: string, readonly point: PointInfo }

interface Member {
  readonly uuid: string
  readonly name: string
  readonly points: Pick<VolumePoints, 'inTurn' | 'begin' | 'giveUp' | 'room' | 'isCrowded'>
}

interface MemberVolume {
  readonly uuid: string
  readonly name: string
  readonly points: VolumePoints
  readonly inheritor: Inheritor
}

/** What is restored, and from what. */
interface MemberRestore {
  readonly uuid: string
  readonly points: VolumePoints
  readonly inheritor: Inheritor
  readonly options: RestoreOptions
}

type PutTogether = (records: readonly { readonly volume: string, readonly record: PointRecord }[]) => Promise<void>

/** What groups need of the store's volumes. Errors: not-found, and why a volume cannot be opened. */
interface Members {
  usable(name: string): MemberVolume
  nameOf(uuid: string): string | undefined
}

/**
 * Makes a point of each member, all or none. `put` makes one record of them durable. In the order of the members.
 * @param optionsOf what the point of a member, by its place in `members`, is to be
 * Errors: exists (a name), busy (a volume did not come to rest), no-space, io, and those of `put`.
 */
export async function createGroupPoints(
  members: readonly Member[], optionsOf: (place: number) => CreatePointOptions, put: PutTogether,
): Promise<PointInfo[]> {
  const ordered = inOrder(members)
  const isCrowded = (): boolean => ordered.some(({ points }) => points.isCrowded)
  for (;;) {
    if (isCrowded()) await Promise.all(ordered.map(({ points }) => points.room()))
    const made = await inTurnOfAll(ordered, async () =>
      isCrowded() ? undefined : createAll(ordered, one => optionsOf(members.indexOf(one)), put))
    if (made) return members.map(({ uuid }) => made.get(uuid)!.point!.info)
  }
}

/** In turn of all of them. */
async function createAll(
  ordered: readonly Member[], optionsOf: (member: Member) => CreatePointOptions, put: PutTogether,
): Promise<ReadonlyMap<string, NewPoint>> {
  const group = randomUUID()
  const fresh = new Map<string, NewPoint>()
  for (const member of ordered) fresh.set(member.uuid, begun(member, optionsOf(member), group))
  try {
    await createPoints([...fresh.values()], () => put([...fresh].map(([volume, { record }]) => ({ volume, record }))))
  } catch (error) {
    await allSettled(ordered.map(({ uuid, points }) => points.giveUp(fresh.get(uuid)!)))
    throw error
  }
  return fresh
}

/** Errors say which volume it is. */
function begun({ name, points }: Member, options: CreatePointOptions, group: string): NewPoint {
  try {
    return points.begin(options, group)
  } catch (error) {
    if (!(error instanceof NbdeltaError)) throw error
    throw new NbdeltaError(error.code, `volume ${name}: ${error.message}`, { hint: error.hint, cause: error })
  }
}

/** As everybody takes them. */
function inOrder<M extends { readonly uuid: string }>(members: readonly M[]): M[] {
  return [...members].sort((a, b) => a.uuid < b.uuid ? -1 : 1)
}

/** Errors: bad-argument. */
function judgeOnce(members: readonly { readonly uuid: string }[]): void {
  if (new Set(members.map(({ uuid }) => uuid)).size === members.length) return
  throw new NbdeltaError('bad-argument', 'a volume takes part once')
}

function inTurnOfAll<T>(
  [first, ...rest]: readonly { readonly points: Pick<VolumePoints, 'inTurn'> }[], work: () => Promise<T>,
): Promise<T> {
  return first ? first.points.inTurn(() => inTurnOfAll(rest, work)) : work()
}

/** Jobs as one: done when all are. */
function together(jobs: readonly InheritJob[], cancel: () => Promise<void>): InheritJob {
  const finished = allSettled(jobs.map(job => job.finished))
  // Whoever does not wait for it is not told.
  finished.catch(() => undefined)
  return {
    finished, cancel,
    progress: () => {
      const parts = jobs.map(job => job.progress())
      return {
        doneBytes: parts.reduce((sum, { doneBytes }) => sum + doneBytes, 0),
        totalBytes: parts.reduce((sum, { totalBytes }) => sum + totalBytes, 0),
      }
    },
    problem: () => jobs.map(job => job.problem()).find(problem => problem !== undefined),
  }
}

function restoreOf({ uuid, points, inheritor }: MemberVolume, options: RestoreOptions): MemberRestore {
  return { uuid, points, inheritor, options }
}

export interface GroupRestoreOptions {
  readonly group: string
  /** Of the snapshots. */
  readonly name: string
  /** Of the copying of each volume; by default no limit. */
  readonly bytesPerSecond?: number
}

export class Groups {
  readonly #table: PointTable
  readonly #members: Members
  /** Of changes of the set of groups: of two of one name the second is refused, not put in the first one's place. */
  readonly #turns = new Turns()

  constructor(table: PointTable, members: Members) {
    this.#table = table
    this.#members = members
  }

  /** By name. Volumes that are gone are no members any more. */
  list(): VolumeGroup[] { return this.#table.groups().map(({ name, volumes }) => ({ name, volumes: this.#names(volumes) })) }

  /** Errors: not-found (a volume), exists, bad-argument, no-space, io. */
  create(name: string, volumes: readonly string[]): Promise<VolumeGroup> {
    return this.#turns.take(async () => {
      if (this.#table.group(name)) throw new NbdeltaError('exists', `there is a group '${name}' already`)
      const uuids = [...new Set(volumes)].map(volume => this.#members.usable(volume).uuid)
      if (uuids.length === 0) throw new NbdeltaError('bad-argument', 'a group needs a volume')
      await this.#table.put({ groups: [{ name, volumes: uuids }] })
      return { name, volumes: this.#names(uuids) }
    })
  }

  /** Volumes and points stay. Errors: not-found, io. */
  delete(name: string): Promise<void> {
    return this.#turns.take(async () => {
      this.get(name)
      await this.#table.put({ removeGroups: [name] })
    })
  }

  /** Errors: not-found. */
  get(name: string): VolumeGroup {
    const found = this.#table.group(name)
    if (!found) throw new NbdeltaError('not-found', `there is no group '${name}'`)
    return { name, volumes: this.#names(found.volumes) }
  }

  /** A point of this name of each volume, of one instant. Errors: not-found, exists, busy, no-space, io. */
  createPoints({ group, ...options }: CreatePointOptions & { readonly group: string }): Promise<GroupPoint[]> {
    return this.#createPoints(this.#memberVolumes(group), () => options)
  }

  /** A point of each of these volumes, of one instant, in their order. Errors: bad-argument (one twice), as `createPoints`. */
  createPointsTogether(wanted: readonly (CreatePointOptions & { readonly volume: string })[]): Promise<GroupPoint[]> {
    const members = wanted.map(({ volume }) => this.#members.usable(volume))
    judgeOnce(members)
    return this.#createPoints(members, place => {
      const { volume: _, ...options } = wanted[place]
      return options
    })
  }

  async #createPoints(
    members: readonly MemberVolume[], optionsOf: (place: number) => CreatePointOptions,
  ): Promise<GroupPoint[]> {
    const points = await createGroupPoints(members, optionsOf,
      records => this.#table.put({ points: records.map(({ volume, record }) => entryOf(volume, record)) }))
    return members.map(({ name }, index) => ({ volume: name, point: points[index] }))
  }

  /**
   * Restores every volume to its point of this name, all made by one operation. They show it at one instant, by one record, or
   * none of them does, and a cancel takes them back likewise. Volumes in which nothing differs are left alone.
   * Errors: not-found, wrong-state (not of one operation), and those of a restore.
   */
  async restore({ group, name, bytesPerSecond }: GroupRestoreOptions): Promise<InheritJob> {
    const members = this.#memberVolumes(group)
    const points = members.map(({ name: volume, points: ofVolume }) => {
      const found = ofVolume.get(name)
      if (!found) throw new NbdeltaError('not-found', `volume ${volume} has no snapshot '${name}'`)
      return found
    })
    if (points[0].group === null || points.some(point => point.group !== points[0].group)) {
      throw new NbdeltaError('wrong-state', `the snapshots '${name}' of group '${group}' are not of one instant`,
        { hint: 'restore the volumes one by one' })
    }
    const options = { from: name, ...bytesPerSecond !== undefined && { bytesPerSecond } }
    return this.#restore(members.map(member => restoreOf(member, options)))
  }

  /**
   * Restores each of these volumes, from its own snapshot or another volume's. They show it at one instant, by one record, or
   * none of them does, and a cancel takes them back likewise. Volumes in which nothing differs are left alone.
   * Errors: not-found, bad-argument (one twice), and those of a restore.
   */
  async restoreTogether(wanted: readonly (RestoreOptions & { readonly volume: string })[]): Promise<InheritJob> {
    const restores = wanted.map(({ volume, ...options }) => restoreOf(this.#members.usable(volume), options))
    judgeOnce(restores)
    return this.#restore(restores)
  }

  async #restore(restores: readonly MemberRestore[]): Promise<InheritJob> {
    const ordered = inOrder(restores)
    for (;;) {
      await allSettled(ordered.map(async ({ inheritor, points }) => {
        await inheritor.hurry()
        await points.room()
      }))
      const sources = new Map<MemberRestore, RestoreSource | undefined>()
      const shown = new Map<MemberRestore, RestoreSwitch>()
      try {
        for (const one of ordered) sources.set(one, await one.inheritor.foreignSource(one.options))
        const jobs = await inTurnOfAll(ordered, () => this.#restoreAll(ordered, sources, shown))
        if (jobs) return together(jobs, () => this.#takeBack(shown))
      } finally {
        await allSettled([...sources].map(async ([one, source]) => { if (!shown.has(one)) await one.inheritor.letGo(source) }))
      }
    }
  }

  /** Who has copied all as well, as long as one has not. Errors: wrong-state (all have), not-found, those of a restore. */
  async #takeBack(shown: ReadonlyMap<MemberRestore, RestoreSwitch>): Promise<void> {
    const all = [...shown]
    if (all.every(([{ inheritor }, { layer }]) => inheritor.isOver(layer))) throw restoreOver()
    await this.#restore(all.map(([one, { layer, changes }]) => {
      return { ...one, options: one.inheritor.undoing(layer, changes.inheritance) }
    }))
  }

  /** Undefined: an earlier restore has begun meanwhile. @param shown gets those that show their snapshot */
  async #restoreAll(
    restores: readonly MemberRestore[], sources: ReadonlyMap<MemberRestore, RestoreSource | undefined>,
    shown: Map<MemberRestore, RestoreSwitch>,
  ): Promise<InheritJob[] | undefined> {
    if (restores.some(({ inheritor }) => inheritor.isRestoring)) return undefined
    // Nothing is there to give up before they are switched.
    const begun: RestoreSwitch[] = []
    for (const one of restores) begun.push(await one.inheritor.begin(one.options, sources.get(one)))
    let isNeeded = false
    await allSettled(begun.map(async one => { if (await one.isNeeded()) isNeeded = true }))
    if (!isNeeded) return []
    const switched = await switchTogether(begun, changes => this.#table.put({
      points: changes.flatMap(({ uuid, points }) => points.map(record => entryOf(uuid, record))),
      volumes: changes.map(({ uuid, inheritance }) => ({ volume: uuid, inherit: inheritance })),
    }))
    return restores.flatMap((one, i) => {
      if (!switched.includes(begun[i])) return []
      shown.set(one, begun[i])
      return [one.inheritor.follow(begun[i])]
    })
  }

  #memberVolumes(group: string): readonly MemberVolume[] {
    const { volumes } = this.get(group)
    if (volumes.length === 0) throw new NbdeltaError('wrong-state', `group '${group}' has no volumes any more`)
    return volumes.map(name => this.#members.usable(name))
  }

  #names(uuids: readonly string[]): string[] {
    return uuids.map(uuid => this.#members.nameOf(uuid)).filter(name => name !== undefined).sort()
  }
}
