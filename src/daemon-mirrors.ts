/**
 * DaemonMirrors: what operators do with mirrors, over the store and the exports.
 *
 * A volume that is a target belongs to its mirror until it is split: clients read its declared point, and what would change it is
 * refused here, with the mirror named (SEEDS D22, B21). Mirrors never meet the NBD server; the roof does.
 */
import { formatSize } from './control/options.js'
import { beginAndFollow } from './daemon-inherit.js'
import { NbdeltaError } from './index.js'
import type { ActionRow, Transfer } from './control/admin.js'
import type { MirrorRow, MirrorsAdmin, ReplicaRow } from './control/admin-mirrors.js'
import type { Access } from './daemon-shared.js'
import type { Mirror, Mirrors, MirrorVerb, PointInfo, Secondaries, StoreVolume } from './index.js'

type Options<M extends keyof MirrorsAdmin> = Parameters<MirrorsAdmin[M]>[0]

/** Whose a volume may be: a mirror's of this store, or of a peer's. */
export interface Owners { readonly mirrors: Mirrors, readonly secondaries: Secondaries }

/** What clients of a volume see. Undefined: the volume; null: nothing yet; else a point of it. */
export function shownInstead({ mirrors, secondaries }: Owners, { uuid }: StoreVolume): PointInfo | null | undefined {
  if (secondaries.of(uuid)?.phase === 'secondary') return secondaries.declaredPoint(uuid) ?? null
  const mirror = mirrors.ownerOf(uuid)
  return mirror && (mirror.declaredPoint() ?? null)
}

/** Refuses what would change a volume that belongs to its mirror. Errors: wrong-state. */
export function refuseTarget({ mirrors, secondaries }: Owners, { uuid, name }: StoreVolume, doing: string): void {
  refuseSecondary({ secondaries }, { uuid, name }, doing)
  const mirror = mirrors.ownerOf(uuid)
  if (!mirror) return
  throw new NbdeltaError('wrong-state', `cannot ${doing} ${name}: it is the target of mirror ${mirror.record.name}`,
    { hint: `nbdelta mirror split ${mirror.record.name} lets it stand on its own` })
}

function refuseSecondary(
  { secondaries }: Pick<Owners, 'secondaries'>, { uuid, name }: Pick<StoreVolume, 'uuid' | 'name'>, doing: string,
): void {
  const state = secondaries.of(uuid)
  if (state?.phase !== 'secondary') return
  const whose = `mirror ${state.name} of ${state.source.name}`
  throw new NbdeltaError('wrong-state', `cannot ${doing} ${name}: it is the secondary of ${whose}`,
    { hint: `split or delete that mirror on its own server, or take over here: nbdelta replica promote ${name}` })
}

/** Refuses the end of a volume that a mirror needs. Errors: busy. */
export function refuseMirrored({ mirrors, secondaries }: Owners, { uuid, name }: StoreVolume): void {
  refuseSecondary({ secondaries }, { uuid, name }, 'delete')
  const [mirror] = [...mirrors.ofSource(uuid), mirrors.ofTarget(uuid)]
  if (!mirror) return
  throw new NbdeltaError('busy', `cannot delete ${name}: mirror ${mirror.record.name} needs it`,
    { hint: `nbdelta mirror delete ${mirror.record.name}` })
}

export class DaemonMirrors implements MirrorsAdmin {
  readonly #access: Access
  readonly #mirrors: Mirrors
  readonly #secondaries: Secondaries

  constructor(access: Access, { mirrors, secondaries }: Owners) {
    this.#access = access
    this.#mirrors = mirrors
    this.#secondaries = secondaries
  }

  async create(options: Options<'create'>): Promise<MirrorRow> {
    const limits = { lagBytes: options.lagBytes ?? null, bytesPerSecond: options.bytesPerSecond ?? null }
    const create = (): Promise<Mirror> => this.#mirrors.create({ ...options, ...limits })
    const target = this.#access.store.get(options.target)
    if (!target) return this.#row(await create())
    this.#access.assertOwn(target.name, 'mirror to')
    return this.#row(await this.#access.closedToNew(target.name, () => {
      this.#access.assertUnattached(target.name, 'mirror to')
      return create()
    }))
  }

  async list(): Promise<MirrorRow[]> { return this.#mirrors.list().map(mirror => this.#row(mirror)) }

  async show(name: string): Promise<MirrorRow> { return this.#row(this.#mirrors.get(name)) }

  async pause({ name, paused }: Options<'pause'>): Promise<ActionRow> {
    const mirror = this.#mirrors.get(name)
    const changed = await (paused ? mirror.pause() : mirror.resume())
    const steps = changed ? [paused ? `begin no cycle of ${name} until it is resumed` : `go on with cycles of ${name}`] : []
    return { target: name, changed, dryRun: false, steps }
  }

  async delete({ name, dryRun }: Options<'delete'>): Promise<ActionRow> {
    const mirror = this.#mirrors.get(name)
    const steps = [`forget mirror ${name} and its points; ${mirror.targetLabel()} stays`]
    if (!dryRun) await this.#mirrors.delete(name)
    return { target: name, changed: !dryRun, dryRun, steps }
  }

  async prepareSync(name: string): Promise<Transfer> {
    const mirror = this.#judged(name, 'sync')
    return { steps: [`run a cycle of ${name}`], volumes: [], run: control => mirror.sync(control) }
  }

  async prepareSplit({ name, atOnce }: Options<'prepareSplit'>): Promise<Transfer> {
    const mirror = this.#judged(name, 'split')
    const steps = [...atOnce ? [] : [`run a last cycle of ${name}`], `let ${mirror.targetLabel()} stand on its own`]
    return { steps, volumes: [], run: async control => { await mirror.split({ ...control, atOnce }) } }
  }

  async prepareResync({ name, reverse, whole, force }: Options<'prepareResync'>): Promise<Transfer> {
    if (reverse && whole) throw new NbdeltaError('bad-argument', 'give --reverse or --whole, not both')
    const mirror = reverse ? this.#judged(name, 'reverse') : whole ? this.#mirrors.get(name) : this.#judged(name, 'resync')
    const differing = whole ? null : await mirror.differing()
    const what = differing === null ? 'everything is compared' : `${formatSize(differing)} may differ`
    const [source, target] = [this.#mirrors.sourceOf(mirror), mirror.targetLabel()]
    if (reverse) return this.#reversal(mirror, source, target, what, force)
    const steps = [`keep what ${target} shows now, and give it the content of ${source}; ${what}`]
    const volume = this.#access.store.get(target)
    // A target that is not split is shown by its declared point, which stays.
    const attached = volume !== undefined && mirror.state.phase === 'split'
    const judge = (): void => { if (attached) this.#access.assertUnattached(target, 'resync') }
    judge()
    const resync = async (): Promise<void> => {
      judge()
      await mirror.beginResync({ whole })
    }
    const begin = attached ? () => this.#access.closedToNew(target, resync) : resync
    return { steps, volumes: attached ? [target] : [], begin, run: control => mirror.sync(control) }
  }

  #reversal(mirror: Mirror, source: string, target: string, what: string, force: boolean): Transfer {
    const judge = (): void => {
      this.#access.assertUnattached(target, 'take over the content of')
      if (!force) this.#access.assertUnattached(source, 'resync')
    }
    judge()
    return beginAndFollow([`keep what ${source} shows now as a snapshot, and give it the content of ${target}; ${what}`],
      () => this.#access.closedToNew(target, () => this.#access.closedToNew(source, async () => {
        judge()
        return mirror.reverse()
      })), [source, target])
  }

  async prepareVerify(name: string): Promise<Transfer> {
    const mirror = this.#judged(name, 'verify')
    return {
      steps: [`compare both sides of ${name}`], volumes: [],
      run: async control => {
        const found = await mirror.verify(control)
        if (found.length === 0) return
        const { offset, length } = found[0]!
        const sides = `${this.#mirrors.sourceOf(mirror)} and ${mirror.targetLabel()}`
        throw new NbdeltaError('damaged', `${sides} differ in ${found.length} regions, the first ${length} bytes at ${offset}`,
          { hint: 'the target is being repaired: see nbdelta mirror show; find out who wrote to it' })
      },
    }
  }

  async replicas(): Promise<ReplicaRow[]> {
    return this.#secondaries.list().map(({ volume, state, attached }) => ({
      volume: volume.name, mirror: state.name, source: state.source.name, state: state.phase, epoch: state.epoch, attached,
      declaredAt: this.#secondaries.declaredPoint(volume.uuid)?.createdAt ?? null,
    }))
  }

  async promoteReplica({ name, dryRun }: Options<'promoteReplica'>): Promise<ActionRow> {
    const { state, declared } = this.#secondaries.judgePromotion(name)
    const shows = state.phase === 'secondary' ? [`let ${name} stand on its own, as of ${declared!.createdAt}`] : []
    const steps = [`refuse mirror ${state.name} of ${state.source.name} from now on`, ...shows]
    if (!dryRun) await this.#secondaries.promote(name)
    return { target: name, changed: !dryRun, dryRun, steps }
  }

  async forgetReplica({ name, dryRun }: Options<'forgetReplica'>): Promise<ActionRow> {
    const { state } = this.#secondaries.judgeForgetting(name)
    const steps = [`forget mirror ${state.name} of ${state.source.name}, and its points of ${name}`]
    if (!dryRun) await this.#secondaries.forget(name)
    return { target: name, changed: !dryRun, dryRun, steps }
  }

  /** Told before a job is made of it. */
  #judged(name: string, verb: MirrorVerb): Mirror {
    const mirror = this.#mirrors.get(name)
    mirror.judge(verb)
    return mirror
  }

  #row(mirror: Mirror): MirrorRow {
    const { name, uuid, state } = mirror.record
    const { phase, progress, last, decisions, lagSeconds, unguarded, problem, ...told } = mirror.status()
    const left = progress ? progress.totalBytes - progress.doneBytes : 0
    return {
      name, uuid, volume: this.#mirrors.sourceOf(mirror), target: mirror.targetLabel(), mode: 'periodic', state: phase,
      paused: told.paused, inSync: phase === 'paired' && problem === null,
      intervalSeconds: state.intervalSeconds, afterBytes: state.lagBytes,
      limitBytesPerSecond: state.bytesPerSecond, behindSeconds: lagSeconds, lagBytes: told.lagBytes,
      declaredAt: told.declaredAt, cycle: told.cycle, nextAt: told.nextAt,
      doneBytes: progress?.doneBytes ?? null, totalBytes: progress?.totalBytes ?? null,
      bytesPerSecond: progress?.bytesPerSecond ?? null,
      etaSeconds: progress && progress.bytesPerSecond > 0 ? left / progress.bytesPerSecond : null,
      lastSeconds: last?.seconds ?? null, lastDataBytes: last?.data ?? null, lastZeroBytes: last?.zeros ?? null,
      lastEqualBytes: last?.equal ?? null, problem, unguarded: [...unguarded],
      decisions: decisions.map(({ at, rule, inputs, outcome }) =>
        `${at} ${rule} (${Object.entries(inputs).map(([key, value]) => `${key} ${value ?? 'none'}`).join(', ')}): ${outcome}`),
    }
  }
}
