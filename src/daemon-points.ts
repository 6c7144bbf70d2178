/**
 * DaemonPoints: what operators do with snapshots and bookmarks, over the store.
 *
 * Figures that take looking (exclusive, referenced) are asked for one point after the other, and not at all once FACTS_MS have
 * passed: they are null then. A list never waits longer.
 */
import { count, formatSize } from './control/options.js'
import { restoredTo } from './daemon-imports.js'
import { defined, FACTS_MS, pointOf, refuseAuto, usable, within } from './daemon-shared.js'
import { beginAndFollow } from './daemon-inherit.js'
import { NbdeltaError } from './index.js'
import type { ActionRow, CreatedRow, Transfer } from './control/admin.js'
import type { DiffRow, PointRow, PointsAdmin, RangeRow } from './control/admin-points.js'
import type { Access } from './daemon-shared.js'
import type { PointFacts, PointInfo, StoreVolume } from './index.js'

type Options<M extends keyof PointsAdmin> = Parameters<PointsAdmin[M]>[0]

export class DaemonPoints implements PointsAdmin {
  readonly #access: Access

  constructor(access: Access) { this.#access = access }

  async create({ volume: of, name, bookmark, labels }: Options<'create'>): Promise<PointRow> {
    const volume = usable(this.#access, of)
    refuseAuto(labels)
    const judge = (): void => { this.#access.assertWhole(of) }
    const point = await volume.points.create({ name, kind: bookmark ? 'bookmark' : 'snapshot', labels, judge })
    return this.#row(volume, point, Date.now() + FACTS_MS)
  }

  async list(of: string | undefined): Promise<PointRow[]> {
    const volumes = of === undefined ? this.#access.store.list().filter(({ problem }) => !problem) : [usable(this.#access, of)]
    const deadline = Date.now() + FACTS_MS
    const rows: PointRow[] = []
    for (const volume of volumes) for (const point of volume.points.list()) rows.push(await this.#row(volume, point, deadline))
    return rows
  }

  async show({ volume: of, name }: Options<'show'>): Promise<PointRow> {
    const volume = usable(this.#access, of)
    return this.#row(volume, pointOf(volume, name), Date.now() + FACTS_MS)
  }

  async rename({ volume: of, name, to }: Options<'rename'>): Promise<ActionRow> {
    const volume = usable(this.#access, of)
    const point = pointOf(volume, name)
    if (to !== name) await volume.points.rename(name, to)
    const steps = [`rename ${point.kind} ${name} of ${of} to ${to}`]
    return { target: `${of}@${name}`, changed: to !== name, dryRun: false, steps }
  }

  async delete({ volume: of, name, dryRun }: Options<'delete'>): Promise<ActionRow> {
    const volume = usable(this.#access, of)
    const point = pointOf(volume, name)
    const facts = await factsOf(volume, point, Date.now() + FACTS_MS)
    refusePinned(of, point)
    if (!dryRun) await volume.points.delete(name)
    const bytes = point.kind === 'bookmark' ? '' : facts ? `, about ${formatSize(facts.exclusiveBytes)}` : ', size not known'
    const steps = [`delete ${point.kind} ${name} of ${of}${bytes}`]
    return { target: `${of}@${name}`, changed: !dryRun, dryRun, steps }
  }

  async diff({ volume: of, from, to, limit }: Options<'diff'>): Promise<DiffRow> {
    const volume = usable(this.#access, of)
    const older = pointOf(volume, from)
    const newer = to === undefined ? undefined : pointOf(volume, to)
    if (newer && newer.seq < older.seq) {
      throw new NbdeltaError('bad-argument', `${from} is newer than ${newer.name}`, { hint: 'name the older one first' })
    }
    const { grainBytes } = volume
    const end = newer?.sizeBytes ?? volume.sizeBytes
    const ranges: RangeRow[] = []
    let changedBytes = 0
    const runs = volume.points.changedRuns(from, to)
    for (const run of runs) {
      const offset = run.start * grainBytes
      const length = Math.min(run.end * grainBytes, end) - offset
      changedBytes += length
      if (ranges.length < limit) ranges.push({ offset, length })
    }
    return { volume: of, from, to: to ?? null, changedBytes, rangeCount: runs.length, ranges }
  }

  async pin({ volume: of, name, owner, expiresSeconds }: Options<'pin'>): Promise<ActionRow> {
    const volume = usable(this.#access, of)
    pointOf(volume, name)
    refuseOwners(owner)
    const expiresAt = expiresSeconds === undefined ? null : new Date(Date.now() + expiresSeconds * 1000).toISOString()
    await volume.points.pin(name, { owner, expiresAt })
    const until = expiresAt === null ? '' : ` until ${expiresAt}`
    return { target: `${of}@${name}`, changed: true, dryRun: false, steps: [`pin ${name} of ${of} for ${owner}${until}`] }
  }

  async unpin({ volume: of, name, owner }: Options<'unpin'>): Promise<ActionRow> {
    const volume = usable(this.#access, of)
    const { pins } = pointOf(volume, name)
    refuseOwners(owner)
    if (!pins.some(pin => pin.owner === owner)) {
      throw new NbdeltaError('not-found', `${name} of ${of} is not pinned by ${owner}`,
        { hint: pins.length > 0 ? `it is by: ${pins.map(pin => pin.owner).join(', ')}` : 'nobody has it pinned' })
    }
    await volume.points.unpin(name, owner)
    return { target: `${of}@${name}`, changed: true, dryRun: false, steps: [`release ${name} of ${of} for ${owner}`] }
  }

  async prepareRestore({ volume: of, name, force, ...range }: Options<'prepareRestore'>): Promise<Transfer> {
    const volume = usable(this.#access, of)
    const point = pointOf(volume, name)
    const part = judgeRestore(volume, point, range)
    this.#access.assertOwn(of, 'restore')
    if (!force) this.#access.assertUnattached(of, 'restore')
    const steps = [`keep what ${of} shows now as a snapshot`, `give ${of} the content of snapshot ${name}${part}`]
    return beginAndFollow(steps, () => this.#access.closedToNew(of, async () => {
      // Somebody may have attached between the look and the hiding.
      if (!force) this.#access.assertUnattached(of, 'restore')
      const job = await volume.restore({ from: name, ...defined(range) })
      if (part === '') await restoredTo(volume, point.sizeBytes)
      return job
    }))
  }

  async clone({ volume: of, name, to }: Options<'clone'>): Promise<CreatedRow> {
    const volume = usable(this.#access, of)
    judgeReadable(pointOf(volume, name))
    await this.#access.store.cloneVolume({ name: to, from: { volume: of, point: name } })
    return { ...await this.#access.show(to), created: true }
  }

  async preparePromote({ name, bytesPerSecond }: Options<'preparePromote'>): Promise<Transfer> {
    usable(this.#access, name)
    return beginAndFollow([`make ${name} stand alone`],
      () => this.#access.store.promoteVolume(name, defined({ bytesPerSecond })))
  }

  async #row(volume: StoreVolume, point: PointInfo, deadline: number): Promise<PointRow> {
    const facts = await factsOf(volume, point, deadline)
    const { name, uuid, seq, kind, createdAt, sizeBytes, pins, labels, group } = point
    const space = volume.space!
    return {
      volume: volume.name, name, uuid, seq, kind, createdAt, sizeBytes,
      exclusiveBytes: facts?.exclusiveBytes ?? null, referencedBytes: facts?.referencedBytes ?? null,
      changedBytes: facts ? facts.changedGrains * volume.grainBytes : null, pins, labels, group,
      space,
    }
  }
}

async function factsOf({ points }: StoreVolume, { name }: PointInfo, deadline: number): Promise<PointFacts | undefined> {
  const leftMs = deadline - Date.now()
  if (leftMs <= 0) return undefined
  // It may be deleted meanwhile; who asked for that one is told elsewhere.
  return within(leftMs, points.facts(name).catch(() => undefined), undefined)
}

/** Owners of the server's own pins: without them a clone would lose what it reads, and a mirror what it goes on from. */
const OWN = /^(clone|restore|delta export|delta import|mirror)( |$)/
const LETS_GO = 'a clone lets go when it is promoted or deleted, a job when it has ended, a mirror when it has a newer point'

function refuseOwners(owner: string): void {
  if (!OWN.test(owner)) return
  throw new NbdeltaError('bad-argument', `'${owner}' is an owner of the server's own: its pins come and go by themselves`,
    { hint: LETS_GO })
}

function refusePinned(of: string, { name, pins }: PointInfo): void {
  const now = new Date()
  const held = pins.filter(({ expiresAt }) => expiresAt === null || new Date(expiresAt) > now)
  if (held.length === 0) return
  throw new NbdeltaError('busy', `${name} of ${of} is pinned by ${held.map(({ owner }) => owner).join(', ')}`,
    { hint: held.every(({ owner }) => OWN.test(owner)) ? LETS_GO : 'release the pin, or wait until it expires' })
}

export function judgeReadable({ name, kind }: PointInfo): void {
  if (kind === 'snapshot') return
  throw new NbdeltaError('bad-argument', `${name} is a bookmark: it keeps no content`, { hint: 'name a snapshot' })
}

/** The range in words, if it is one. */
function judgeRestore(
  { sizeBytes }: StoreVolume, point: PointInfo, { offset, length }: { offset: number, length: number | undefined },
): string {
  judgeReadable(point)
  const end = length === undefined ? sizeBytes : offset + length
  if (offset >= sizeBytes || end > sizeBytes) {
    throw new NbdeltaError('bad-argument', `the range ends behind the volume, which has ${formatSize(sizeBytes)}`)
  }
  return offset === 0 && end === sizeBytes ? '' : `, ${count(end - offset, 'byte')} from ${offset} on`
}
