/**
 * DaemonAdmin: what the control socket asks for, done over the store and the NBD server.
 *
 * It judges what needs both: a volume with clients is neither deleted nor shrunk; clients of its snapshots are in the way of
 * deleting only. Between that look and the deed a client could attach, so the export is closed to new ones meanwhile.
 */
import { count, formatSize, isUri } from './control/options.js'
import { DaemonDeltas } from './daemon-deltas.js'
import { DaemonGroups } from './daemon-groups.js'
import { DaemonMirrors, refuseMirrored, refuseTarget, wholeAt } from './daemon-mirrors.js'
import { resumedJobs } from './daemon-inherit.js'
import { DaemonPoints } from './daemon-points.js'
import { defined, FACTS_MS, noVolume, pointOf, usable, within } from './daemon-shared.js'
import { Transfers } from './daemon-transfers.js'
import { judgeFreezable, NbdeltaError } from './index.js'
import { undoImportsOf } from './daemon-imports.js'
import { volumeNameOf } from './point-exports.js'
import type { ActionRow, ClientRow, CreatedRow, ExportRow, ServerAdmin, StatusRow, Transfer, VolumeRow } from './control/admin.js'
import type { SchedulesAdmin } from './control/admin-points.js'
import type { RemoteExports } from './daemon-remote.js'
import type { Access } from './daemon-shared.js'
import type { Health } from './health.js'
import type { BoundAddress, Logger, Mirrors, NbdServer, PointInfo, Secondaries, Store, StoreVolume } from './index.js'
import type { StoreExports } from './store-exports.js'

/** A client that does not take its answers for that long is closed hard. */
const SOFT_CLOSE_MS = 30_000
const UNKNOWN = { allocatedBytes: null, mappedBytes: null, inheritedBytes: null, staleBytes: null }

interface AdminParts {
  readonly store: Store
  readonly server: NbdServer
  readonly exports: StoreExports
  readonly health: Health
  readonly schedules: SchedulesAdmin
  readonly mirrors: Mirrors
  readonly secondaries: Secondaries
  readonly remote: RemoteExports
  /** Where the peer link listens; it does so after everything else. */
  readonly peerAddresses: () => readonly BoundAddress[]
  readonly version: string
  readonly control: string
  readonly memoryBytes: number
  readonly logger: Logger
}

export class DaemonAdmin implements ServerAdmin {
  draining = false
  readonly points: DaemonPoints
  readonly groups: DaemonGroups
  readonly schedules: SchedulesAdmin
  readonly deltas: DaemonDeltas
  readonly mirrors: DaemonMirrors
  readonly #parts: AdminParts
  readonly #transfers: Transfers
  readonly #startedAtMs = performance.now()

  constructor(parts: AdminParts) {
    this.#parts = parts
    const access: Access = {
      store: parts.store,
      get: name => this.#get(name),
      show: name => this.showVolume(name),
      assertUnattached: (name, doing) => { this.#assertUnattached(name, doing) },
      assertOwn: (name, doing) => { refuseTarget(parts, this.#get(name), doing) },
      assertWhole: name => { judgeFreezable(this.#get(name), volume => wholeAt(parts, volume)) },
      closedToNew: (name, work) => this.#closedToNew(name, work),
    }
    this.#transfers = new Transfers({ ...parts, ...access })
    this.points = new DaemonPoints(access)
    this.groups = new DaemonGroups(access)
    this.schedules = parts.schedules
    this.deltas = new DaemonDeltas(access, this.#transfers)
    this.mirrors = new DaemonMirrors(access, parts)
  }

  /** Runs `work` while nobody can attach to the volume. Errors: busy (somebody is). */
  whileUnattached<T>(name: string, work: () => Promise<T>): Promise<T> {
    return this.#closedToNew(name, async () => {
      this.#assertUnattached(name, 'mirror to')
      return work()
    })
  }

  /** As typed in --nbd. */
  listeners(): string[] { return this.#parts.server.addresses.map(addressText) }

  /** As typed in --peer. */
  peerListeners(): string[] { return this.#parts.peerAddresses().map(addressText) }

  async createVolume({ ifNotExists, ...options }: Parameters<ServerAdmin['createVolume']>[0]): Promise<CreatedRow> {
    const { backing } = options
    const wanted = backing === undefined || !isUri(backing) ? options
      : { ...options, backing: await this.#parts.remote.judgeBacking(backing) }
    const found = this.#parts.store.get(wanted.name)
    if (found) return this.#foundInstead(found.name, ifNotExists, wanted)
    if (wanted.sizeBytes === undefined && wanted.backing === undefined) {
      throw new NbdeltaError('bad-argument', 'a new volume needs --size or --backing')
    }
    await this.#parts.store.createVolume(wanted)
    return { ...await this.showVolume(wanted.name), created: true }
  }

  async #foundInstead(
    name: string, ifNotExists: boolean,
    wanted: { sizeBytes: number | undefined, grainBytes: number, backing: string | undefined },
  ): Promise<CreatedRow> {
    const row = await this.showVolume(name)
    if (!ifNotExists) {
      throw new NbdeltaError('exists', `there is a volume ${name} already`,
        { hint: 'choose another name, or give --if-not-exists' })
    }
    const differs = (wanted.sizeBytes ?? row.sizeBytes) !== row.sizeBytes ? `its size is ${formatSize(row.sizeBytes)}`
      : wanted.grainBytes !== row.grainBytes ? `its grain is ${formatSize(row.grainBytes)}`
        : (wanted.backing ?? row.backing) !== row.backing ? `its backing is ${row.backing ?? 'the store'}` : undefined
    if (differs) throw new NbdeltaError('exists', `there is a volume ${name} already, but ${differs}`)
    return { ...row, created: false }
  }

  async listVolumes(): Promise<VolumeRow[]> {
    return Promise.all(this.#parts.store.list().map(({ name }) => this.showVolume(name)))
  }

  async showVolume(name: string): Promise<VolumeRow> {
    const volume = this.#get(name)
    const { allocatedBytes, mappedBytes } = await within(FACTS_MS, volume.facts().catch(() => UNKNOWN), UNKNOWN)
    const { uuid, sizeBytes, grainBytes, backing, createdAt, description, space, problem } = volume
    return {
      name, uuid, sizeBytes, grainBytes, allocatedBytes, mappedBytes, clients: this.#clientsOf(name),
      hidden: this.#parts.exports.isHidden(name),
      backing, createdAt, description, space, problem: problem ? problem.message : null,
    }
  }

  async resizeVolume({ name, sizeBytes, shrink, dryRun }: Parameters<ServerAdmin['resizeVolume']>[0]): Promise<ActionRow> {
    refuseTarget(this.#parts, this.#get(name), 'resize')
    const before = this.#get(name).sizeBytes
    if (sizeBytes === before) return { target: name, changed: false, dryRun, steps: [] }
    const verb = sizeBytes > before ? 'grow' : 'shrink'
    const steps = [`${verb} volume ${name} from ${formatSize(before)} to ${formatSize(sizeBytes)}`]
    const run = (): Promise<void> => this.#parts.store.resizeVolume(name, sizeBytes)
    if (sizeBytes > before) {
      if (!dryRun) await run()
      return { target: name, changed: !dryRun, dryRun, steps }
    }
    if (!shrink) {
      throw new NbdeltaError('wrong-state',
        `${formatSize(sizeBytes)} is less than ${name} has, ${formatSize(before)}: its end would be lost`,
        { hint: 'give --shrink if that is meant' })
    }
    await this.#closedToNew(name, async () => {
      this.#assertUnattached(name, 'shrink')
      if (!dryRun) await run()
    })
    return { target: name, changed: !dryRun, dryRun, steps }
  }

  async setBudget({ name, budgetBytes, order, dryRun }: Parameters<ServerAdmin['setBudget']>[0]): Promise<ActionRow> {
    const { space } = usable({ get: other => this.#get(other) }, name)
    const budget = budgetBytes === undefined || budgetBytes === space!.budgetBytes ? []
      : [budgetBytes === null ? `lift the budget of ${name}` : `let snapshots of ${name} keep at most ${formatSize(budgetBytes)}`]
    const steps = [...budget, ...order && order !== space!.order ? [`when space of ${name} ends: ${order}`] : []]
    const changed = steps.length > 0 && !dryRun
    if (changed) await this.#parts.store.setSpace(name, defined({ budgetBytes, order }))
    return { target: name, changed, dryRun, steps }
  }

  async reopenVolume(name: string): Promise<VolumeRow> {
    refuseMirrored(this.#parts, this.#get(name), 'reopen')
    await this.#closedToNew(name, async () => {
      this.#assertUnattached(name, 'reopen')
      const { store, logger } = this.#parts
      await undoImportsOf(store, await store.reopenVolume(name), logger)
    })
    return this.showVolume(name)
  }

  async deleteVolume({ name, force, ifExists, dryRun }: Parameters<ServerAdmin['deleteVolume']>[0]): Promise<ActionRow> {
    if (!this.#parts.store.get(name) && ifExists) return { target: name, changed: false, dryRun, steps: [] }
    const volume = this.#get(name)
    const { sizeBytes, backing } = volume
    const points = volume.problem ? [] : volume.points.list()
    refuseMirrored(this.#parts, volume, 'delete')
    refuseNeeded(name, points)
    const clients = this.#attachedTo(name).length
    const steps = [...clients > 0 ? [`close ${count(clients, 'client')} of ${name}`] : [],
      ...points.length > 0 ? [`delete ${count(points.length, 'point', 'snapshots and bookmarks')} of ${name}`] : [],
      backing === null ? `delete volume ${name}, ${formatSize(sizeBytes)}` : `forget volume ${name}; ${backing} stays`]
    await this.#closedToNew(name, async () => {
      if (!force) this.#assertUnattached(name, 'delete')
      if (dryRun) return
      for (const each of new Set(this.#attachedTo(name))) await this.#parts.server.closeExport(each, 'hard')
      await this.#parts.store.deleteVolume(name, () => { refuseMirrored(this.#parts, volume, 'delete') })
      this.#parts.exports.setHidden(name, false)
    })
    return { target: name, changed: !dryRun, dryRun, steps }
  }

  prepareImport(options: Parameters<ServerAdmin['prepareImport']>[0]): Promise<Transfer> {
    return this.#transfers.prepareImport(options)
  }

  prepareExport(options: Parameters<ServerAdmin['prepareExport']>[0]): Promise<Transfer> {
    return this.#transfers.prepareExport(options)
  }

  resumed(): ReturnType<ServerAdmin['resumed']> { return resumedJobs(this.#parts.store) }

  async listExports(): Promise<ExportRow[]> {
    const { store, server, exports } = this.#parts
    return store.list().map(({ name, uuid, sizeBytes }) => ({
      name, uuid, sizeBytes, hidden: exports.isHidden(name), clients: this.#clientsOf(name), uris: server.uri(name),
    }))
  }

  async setHidden(name: string, hidden: boolean): Promise<ActionRow> {
    this.#get(name)
    const changed = this.#parts.exports.setHidden(name, hidden)
    const steps = changed ? [`${hidden ? 'close' : 'open'} export ${name} ${hidden ? 'to' : 'for'} new clients`] : []
    return { target: name, changed, dryRun: false, steps }
  }

  async closeExport({ name, how, dryRun }: Parameters<ServerAdmin['closeExport']>[0]): Promise<ActionRow> {
    const volumeName = volumeNameOf(name)
    const volume = this.#get(volumeName)
    if (name !== volumeName && !volume.problem) pointOf(volume, name.slice(volumeName.length + 1))
    const { server } = this.#parts
    const clients = this.#clientsOf(name)
    const steps = clients > 0 ? [`close ${count(clients, 'client')} of ${name}`] : []
    if (dryRun || clients === 0) return { target: name, changed: false, dryRun, steps }
    const late = how === 'soft' ? setTimeout(() => { void server.closeExport(name, 'hard') }, SOFT_CLOSE_MS) : undefined
    try {
      await server.closeExport(name, how)
    } finally {
      clearTimeout(late)
    }
    return { target: name, changed: true, dryRun, steps }
  }

  async listClients(exportName: string | undefined): Promise<ClientRow[]> {
    const clients = this.#parts.server.clients().filter(client => exportName === undefined || client.export === exportName)
    return clients.map(client => ({
      id: client.id, export: client.export ?? null, address: client.address,
      state: client.export === undefined ? 'handshake' : 'attached',
      connectedAt: client.connectedAt, inFlight: client.inFlight, readBytes: client.bytesRead, writtenBytes: client.bytesWritten,
    }))
  }

  async kickClient({ id, dryRun }: Parameters<ServerAdmin['kickClient']>[0]): Promise<ActionRow> {
    const { server } = this.#parts
    const client = server.clients().find(one => one.id === id)
    if (!client || (!dryRun && !server.kick(id))) {
      throw new NbdeltaError('not-found', `there is no client ${id}`, { hint: 'see: nbdelta client list' })
    }
    return { target: String(id), changed: !dryRun, dryRun, steps: [`close client ${id}, ${client.address}`] }
  }

  async status(): Promise<Omit<StatusRow, 'jobsRunning'>> {
    const { store, server, health, version, control, memoryBytes } = this.#parts
    return {
      state: this.draining ? 'draining' : 'serving', version, pid: process.pid,
      uptimeSeconds: Math.round((performance.now() - this.#startedAtMs) / 1000),
      store: store.path, listeners: this.listeners(), peerListeners: this.peerListeners(), control,
      volumes: store.list().length,
      volumesBroken: store.list().filter(volume => volume.problem).length, clients: server.clients().length,
      rssBytes: process.memoryUsage.rss(), memoryBudgetBytes: memoryBytes, memoryInUseBytes: server.stats().bufferBytes,
      ...spacesOf(store.list()), ...health.read(),
    }
  }

  #get(name: string): StoreVolume {
    const volume = this.#parts.store.get(name)
    if (!volume) throw noVolume(name)
    return volume
  }

  #clientsOf(name: string): number { return this.#parts.server.clients().filter(client => client.export === name).length }

  /** What clients of a volume and of its snapshots are attached to, by name of export. */
  #attachedTo(volumeName: string): string[] {
    const names = this.#parts.server.clients().flatMap(client => client.export ?? [])
    return names.filter(name => volumeNameOf(name) === volumeName)
  }

  #assertUnattached(name: string, doing: string): void {
    // A snapshot's reader needs the volume as well.
    const whole = doing === 'delete' || doing === 'reopen'
    const clients = whole ? this.#attachedTo(name).length : this.#clientsOf(name)
    if (clients === 0) return
    throw new NbdeltaError('busy',
      `cannot ${doing} ${name}: ${count(clients, 'client')} ${clients === 1 ? 'is' : 'are'} attached`,
      { hint: doing === 'delete' ? 'detach it, or give --force' : `detach it, or: nbdelta export kick ${name}` })
  }

  /** Runs `work` while no new client can attach. */
  async #closedToNew<T>(name: string, work: () => Promise<T>): Promise<T> {
    const { exports } = this.#parts
    const changed = exports.setHidden(name, true)
    try { return await work() } finally { if (changed) exports.setHidden(name, false) }
  }
}

function addressText(address: BoundAddress): string {
  if ('path' in address) return `unix:${address.path}`
  return `tcp:${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`
}

function spacesOf(volumes: readonly StoreVolume[]): Pick<StatusRow, 'volumesFailing' | 'keptBytes' | 'spaces'> {
  const all = volumes.flatMap(({ name, space }) => space ? [{ volume: name, ...space }] : [])
  const told = all.filter(({ budgetBytes, sacrifices, failing }) => budgetBytes !== null || sacrifices > 0 || failing !== null)
  return {
    volumesFailing: all.filter(({ failing }) => failing !== null).length,
    keptBytes: all.reduce((sum, { keptBytes }) => sum + keptBytes, 0), spaces: told,
  }
}

/** Whoever has a point pinned needs the volume. A restore of the volume itself goes with it; of clones the store knows more. */
function refuseNeeded(name: string, points: readonly PointInfo[]): void {
  const now = new Date()
  for (const point of points) {
    const pin = point.pins.find(({ owner, expiresAt }) =>
      owner !== 'restore' && (expiresAt === null || new Date(expiresAt) > now))
    if (!pin) continue
    throw new NbdeltaError('busy', `cannot delete ${name}: its snapshot ${point.name} is pinned by ${pin.owner}`,
      { hint: `release it: nbdelta snapshot unpin; a clone: nbdelta volume promote, or delete it` })
  }
}
