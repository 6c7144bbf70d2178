/**
 * DaemonMirrors: what operators do with mirrors, over the store and the exports.
 *
 * A volume that is a target belongs to its mirror until it is split: clients read its declared point, and what would change it is
 * refused here, with the mirror named (SEEDS D22, B21). Mirrors never meet the NBD server; the roof does.
 */
import { count, formatSize } from './control/options.js'
import { restoredTo } from './daemon-imports.js'
import { beginAndFollow, followJob } from './daemon-inherit.js'
import { usable } from './daemon-shared.js'
import { NbdeltaError } from './index.js'
import type { ActionRow, Transfer, TransferControl } from './control/admin.js'
import type { MirrorRow, MirrorsAdmin, MirrorsNamed, ReplicaRow } from './control/admin-mirrors.js'
import type { Access } from './daemon-shared.js'
import type {
  InheritJob, Mirror, MirrorGroup, Mirrors, MirrorVerb, PointInfo, Secondaries, StoreVolume, Verified,
} from './index.js'

type Options<M extends keyof MirrorsAdmin> = Parameters<MirrorsAdmin[M]>[0]

/** Whose a volume may be: a mirror's of this store, or of a peer's. */
export interface Owners { readonly mirrors: Mirrors, readonly secondaries: Secondaries }

/** What clients of a volume see. Undefined: the volume; null: nothing yet; else a point of it. */
export function shownInstead({ mirrors, secondaries }: Owners, { uuid }: StoreVolume): PointInfo | null | undefined {
  if (mirrors.isPulled(uuid)) return null
  if (secondaries.of(uuid)?.phase === 'secondary') return secondaries.shownPoint(uuid) ?? null
  const mirror = mirrors.ownerOf(uuid)
  return mirror && (mirror.shownPoint() ?? null)
}

/** What a volume has to hold if it is to be frozen; undefined: whatever it holds is a moment of its source, or its own. */
export function wholeAt(owners: Owners, volume: StoreVolume): PointInfo | null | undefined {
  const { mirrors, secondaries } = owners
  const isReceiving = secondaries.isReceiving(volume.uuid) || mirrors.ownerOf(volume.uuid)?.isReceiving
  return isReceiving ? undefined : shownInstead(owners, volume)
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

/** Refuses the end of a volume, for good or for a moment, that a mirror needs. Errors: busy, wrong-state. */
export function refuseMirrored(
  { mirrors, secondaries }: Owners, { uuid, name }: StoreVolume, doing: 'delete' | 'reopen',
): void {
  refuseSecondary({ secondaries }, { uuid, name }, doing)
  const [mirror] = [...mirrors.ofSource(uuid), mirrors.ofTarget(uuid)]
  if (!mirror) return
  throw new NbdeltaError('busy', `cannot ${doing} ${name}: mirror ${mirror.record.name} needs it`,
    { hint: doing === 'delete' ? `nbdelta mirror delete ${mirror.record.name}` : 'restart the server instead' })
}

/** Names of both sides of a pair, and how much of them differs, in words. */
interface Sides { readonly source: string, readonly target: string, readonly what: string }

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

  async prepareSync(named: Options<'prepareSync'>): Promise<Transfer> {
    const group = this.#together(named)
    const [mirror, ...others] = group.mirrors
    const what = others.length > 0 ? `a cycle of each of ${namesOf(group)}, of one instant` : `a cycle of ${namesOf(group)}`
    for (const one of group.mirrors) one.judge('sync')
    const run = (control: TransferControl): Promise<void> => others.length > 0 ? group.sync(control) : mirror!.sync(control)
    return { steps: [`run ${what}`], volumes: [], run }
  }

  async prepareSplit({ atOnce, ...named }: Options<'prepareSplit'>): Promise<Transfer> {
    const group = this.#together(named)
    const [mirror, ...others] = group.mirrors
    if (others.length > 0) group.judgeSplit({ atOnce })
    else mirror!.judge('split')
    const last = `run a last cycle of ${namesOf(group)}${others.length > 0 ? ', of one instant' : ''}`
    const steps = [...atOnce ? [] : [last], ...group.mirrors.map(one => `let ${one.targetLabel()} stand on its own`)]
    const split = others.length > 0 ? group : mirror!
    return { steps, volumes: [], run: async control => { await split.split({ ...control, atOnce }) } }
  }

  async prepareResync({ reverse, whole, force, ...named }: Options<'prepareResync'>): Promise<Transfer> {
    if (reverse && whole) throw new NbdeltaError('bad-argument', 'give --reverse or --whole, not both')
    const group = this.#together(named)
    const [mirror, ...others] = group.mirrors
    if (reverse) group.judgeReversal()
    else if (!whole) for (const one of group.mirrors) one.judge('resync')
    const facts = await Promise.all(group.mirrors.map(one => this.#differing(one, whole)))
    if (reverse) return this.#reversal(group, facts, force)
    const steps = facts.map(({ source, target, what }) =>
      `keep what ${target} shows now, and give it the content of ${source}; ${what}`)
    // A target that is not split is shown by its declared point, which stays.
    const attached = group.mirrors.filter(({ state }) => state.phase === 'split').map(one => one.targetLabel())
      .filter(target => this.#access.store.get(target) !== undefined)
    const judge = (): void => { for (const target of attached) this.#access.assertUnattached(target, 'resync') }
    judge()
    const resync = async (): Promise<void> => {
      judge()
      await (others.length > 0 ? group : mirror!).beginResync({ whole })
    }
    const begin = attached.reduce((work, target) => () => this.#access.closedToNew(target, work), resync)
    const run = (control: TransferControl): Promise<void> => others.length > 0 ? group.syncEach(control) : mirror!.sync(control)
    return { steps, volumes: attached, begin, run }
  }

  async #differing(mirror: Mirror, whole: boolean): Promise<Sides> {
    const isApart = mirror.state.phase === 'split'
    // To ask a peer would end what goes there.
    const bytes = whole || !isApart ? null : await mirror.differing()
    const what = !whole && !isApart ? 'nothing to do: it is not split' : bytes === null ? 'everything is compared'
      : `${formatSize(bytes)} may differ`
    return { source: this.#mirrors.sourceOf(mirror), target: mirror.targetLabel(), what }
  }

  #together({ names, group }: MirrorsNamed): MirrorGroup {
    return this.#mirrors.together(group ? names.flatMap(name => this.#mirrors.ofGroup(name)) : names)
  }

  /** At once, if all targets are volumes of this store; else what differs is fetched first, by a job that can be cancelled. */
  #reversal(group: MirrorGroup, facts: readonly Sides[], force: boolean): Transfer {
    const sources = facts.map(({ source }) => source)
    const isHere = group.mirrors.map(({ state }) => state.target.kind === 'volume')
    const targets = facts.map(({ target }) => target).filter((_, place) => isHere[place])
    const judge = (): void => {
      for (const target of targets) this.#access.assertUnattached(target, 'take over the content of')
      if (!force) for (const source of sources) this.#access.assertUnattached(source, 'resync')
    }
    judge()
    const reverse = (control: Partial<TransferControl>): Promise<InheritJob> => {
      const judged = async (): Promise<InheritJob> => {
        judge()
        const job = await group.reverse(control)
        // Targets are as large as their sources.
        for (const source of sources.map(name => usable(this.#access, name))) await restoredTo(source, source.sizeBytes)
        return job
      }
      return [...targets, ...sources].reduce((work, name) => () => this.#access.closedToNew(name, work), judged)()
    }
    const steps = facts.map(({ source, target, what }) =>
      `keep what ${source} shows now as a snapshot, and give it the content of ${target}; ${what}`)
    const volumes = [...sources, ...targets]
    if (!isHere.includes(false)) return beginAndFollow(steps, () => reverse({}), volumes)
    return { steps, volumes, run: async control => followJob(await reverse(control), control) }
  }

  async prepareVerify({ name, bytesPerSecond }: Options<'prepareVerify'>): Promise<Transfer> {
    const mirror = this.#judged(name, 'verify')
    return {
      steps: [`compare both sides of ${name}`], volumes: [],
      run: async control => {
        // Everything that is read of a plain server crosses, as a copy would.
        const limit = bytesPerSecond ?? (mirror.target.holds ? null : mirror.state.bytesPerSecond)
        const found = await mirror.verify({ ...control, bytesPerSecond: limit })
        if (found.length === 0) return `equal: ${toldOf(mirror.status().verified!)}`
        const { offset, length } = found[0]!
        const sides = `${this.#mirrors.sourceOf(mirror)} and ${mirror.targetLabel()}`
        const hint = mirror.state.phase === 'split'
          ? `it was split meanwhile, and nothing is repaired: nbdelta mirror resync ${name} --whole compares everything`
          : 'the target is being repaired: see nbdelta mirror show; find out who wrote to it'
        const places = found.map(region => `${region.offset}+${region.length}`).join(' ')
        const all = found.length > 1 ? `; bytes at offset+length: ${places}` : ''
        throw new NbdeltaError('damaged',
          `${sides} differ in ${count(found.length, 'region')}, the first ${length} bytes at ${offset}${all}`, { hint })
      },
    }
  }

  async prepareReplicaVerify({ name, bytesPerSecond }: Options<'prepareReplicaVerify'>): Promise<Transfer> {
    const { point: { createdAt } } = this.#secondaries.judgeVerification(name)
    return {
      steps: [`read all of ${name} as of ${createdAt}`],
      run: async control => {
        const { point } = this.#secondaries.judgeVerification(name)
        const found = await this.#secondaries.verify(name, { ...control, bytesPerSecond: bytesPerSecond ?? null })
        return `read without an error: ${toldOf(found)}, root ${point.labels['root'] ?? 'none'}, declared at ${point.createdAt}`
      },
    }
  }

  async replicas(): Promise<ReplicaRow[]> {
    return this.#secondaries.list().map(({ volume, state, attached }) => {
      const shown = this.#secondaries.shownPoint(volume.uuid)
      return {
        volume: volume.name, mirror: state.name, source: state.source.name, state: state.phase, epoch: state.epoch, attached,
        declaredAt: shown?.createdAt ?? null, root: shown?.labels['root'] ?? null,
        ...verifiedOf(this.#secondaries.verified(volume.uuid)),
      }
    })
  }

  async promoteReplica({ name, dryRun }: Options<'promoteReplica'>): Promise<ActionRow> {
    const { state, shown, isPromoted } = this.#secondaries.judgePromotion(name)
    if (isPromoted) {
      const note = `${name} was promoted already: mirror ${state.name} of ${state.source.name} is refused`
      return { target: name, changed: false, dryRun, steps: [], note }
    }
    const shows = state.phase === 'secondary' ? [`let ${name} stand on its own, as of ${shown!.createdAt}`] : []
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
    const { phase, progress, last, decisions, lagSeconds, unguarded, problem, verified, ...told } = mirror.status()
    const inStep = told.stream?.inStep ?? false
    const left = progress ? progress.totalBytes - progress.doneBytes : 0
    return {
      name, uuid, volume: this.#mirrors.sourceOf(mirror), target: mirror.targetLabel(), mode: state.mode, state: phase,
      paused: told.paused, inSync: phase === 'paired' && problem === null && (state.mode === 'periodic' || inStep), inStep,
      timeoutSeconds: state.timeoutSeconds, intervalSeconds: state.intervalSeconds, afterBytes: state.lagBytes,
      limitBytesPerSecond: state.bytesPerSecond, keepSnapshots: state.keepSnapshots,
      behindSeconds: lagSeconds, lagBytes: told.lagBytes,
      declaredAt: told.declaredAt, cycle: told.cycle, root: state.base?.root ?? null, nextAt: told.nextAt,
      doneBytes: progress?.doneBytes ?? null, totalBytes: progress?.totalBytes ?? null,
      bytesPerSecond: progress?.bytesPerSecond ?? null,
      etaSeconds: progress && progress.bytesPerSecond > 0 ? left / progress.bytesPerSecond : null,
      lastSeconds: last?.seconds ?? null, lastDataBytes: last?.data ?? null, lastZeroBytes: last?.zeros ?? null,
      lastEqualBytes: last?.equal ?? null, problem, unguarded: [...unguarded], ...verifiedOf(verified),
      decisions: decisions.map(({ at, rule, inputs, outcome }) =>
        `${at} ${rule} (${Object.entries(inputs).map(([key, value]) => `${key} ${value ?? 'none'}`).join(', ')}): ${outcome}`),
    }
  }
}

function verifiedOf(
  verified: Verified | null,
): Pick<ReplicaRow, 'verifiedAt' | 'verified' | 'verifiedCycle' | 'digest'> {
  return {
    verifiedAt: verified?.at ?? null, verified: verified?.result ?? null, verifiedCycle: verified?.cycle ?? null,
    digest: verified?.digest ?? null,
  }
}

/** So that two people can compare. */
function toldOf({ cycle, digest }: Verified): string { return `point ${cycle ?? 'of unknown number'}, digest ${digest}` }

function namesOf({ mirrors }: MirrorGroup): string { return mirrors.map(({ record }) => record.name).join(', ') }
