/** DaemonGroups: what operators do with groups of volumes, over the store. */
import { restoredTo } from './daemon-imports.js'
import { beginAndFollow } from './daemon-inherit.js'
import { judgeReadable } from './daemon-points.js'
import { defined, pointOf, refuseAuto, usable } from './daemon-shared.js'
import { NbdeltaError } from './index.js'
import type { ActionRow, Transfer } from './control/admin.js'
import type { GroupPointsRow, GroupRow, GroupsAdmin } from './control/admin-points.js'
import type { Access } from './daemon-shared.js'

type Options<M extends keyof GroupsAdmin> = Parameters<GroupsAdmin[M]>[0]

export class DaemonGroups implements GroupsAdmin {
  readonly #access: Access

  constructor(access: Access) { this.#access = access }

  async create({ name, volumes }: Options<'create'>): Promise<GroupRow> {
    for (const volume of volumes) usable(this.#access, volume)
    return this.#access.store.createGroup(name, volumes)
  }

  async list(): Promise<GroupRow[]> { return [...this.#access.store.groups] }

  async show(name: string): Promise<GroupRow> { return this.#get(name) }

  async delete({ name, dryRun }: Options<'delete'>): Promise<ActionRow> {
    const { volumes } = this.#get(name)
    if (!dryRun) await this.#access.store.deleteGroup(name)
    const stay = volumes.length > 0 ? `; ${volumes.join(', ')} stay` : ''
    return { target: name, changed: !dryRun, dryRun, steps: [`forget group ${name}${stay}`] }
  }

  async snapshot({ group, name, bookmark, labels }: Options<'snapshot'>): Promise<GroupPointsRow> {
    const { volumes } = this.#get(group)
    for (const volume of volumes) usable(this.#access, volume)
    refuseAuto(labels)
    const judge = (): void => { for (const volume of volumes) this.#access.assertWhole(volume) }
    const kind = bookmark ? 'bookmark' : 'snapshot'
    const made = await this.#access.store.createGroupPoints({ group, name, kind, labels, judge })
    const { createdAt } = made[0]!.point
    return { group, name, kind, volumes: made.map(({ volume }) => volume), createdAt }
  }

  async prepareRestore({ group, name, bytesPerSecond, force }: Options<'prepareRestore'>): Promise<Transfer> {
    const { volumes } = this.#get(group)
    const points = volumes.map(volume => pointOf(usable(this.#access, volume), name))
    for (const point of points) judgeReadable(point)
    for (const volume of volumes) this.#access.assertOwn(volume, 'restore')
    if (points.length === 0) throw new NbdeltaError('wrong-state', `group ${group} has no volumes any more`)
    if (points[0]!.group === null || points.some(point => point.group !== points[0]!.group)) {
      throw new NbdeltaError('wrong-state', `the snapshots ${name} of group ${group} are not of one instant`,
        { hint: 'restore the volumes one by one: nbdelta snapshot restore' })
    }
    const assertUnattached = (): void => {
      if (!force) for (const volume of volumes) this.#access.assertUnattached(volume, 'restore')
    }
    assertUnattached()
    const steps = volumes.flatMap(volume =>
      [`keep what ${volume} shows now as a snapshot`, `give ${volume} the content of snapshot ${name}`])
    const begin = () => this.#access.store.restoreGroup({ group, name, ...defined({ bytesPerSecond }) })
    const guarded = volumes.reduce<typeof begin>((work, volume) => () => this.#access.closedToNew(volume, work), async () => {
      assertUnattached()
      const job = await begin()
      for (const [i, name] of volumes.entries()) await restoredTo(usable(this.#access, name), points[i]!.sizeBytes)
      return job
    })
    return beginAndFollow(steps, guarded, volumes)
  }

  #get(name: string): GroupRow {
    const group = this.#access.store.groups.find(one => one.name === name)
    if (!group) throw new NbdeltaError('not-found', `there is no group ${name}`, { hint: 'see: nbdelta group list' })
    return group
  }
}
