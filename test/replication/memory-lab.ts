/**
 * Mirrors of one volume, in memory: to a volume that shares its table of points, and to a disk behind a network. Everything that is
 * durable is on the disks of one array, so that a crash can be had at any moment; the network is seeded, and loses what it is told to.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { type DiskArray, ManualClock, MemoryDisk, type Random } from '../../src/device/testing.js'
import { DeviceTarget } from '../../src/replication/device-target.js'
import { LogBudget } from '../../src/replication/log-budget.js'
import { Mirror } from '../../src/replication/mirror.js'
import { judgeState, type MirrorRecord } from '../../src/replication/mirror-record.js'
import { MirrorGroup } from '../../src/replication/mirror-group.js'
import { PulledVolumes } from '../../src/replication/pulled.js'
import { VolumeTarget } from '../../src/replication/volume-target.js'
import type { PointTable } from '../../src/store/point-table.js'
import { createGroupPoints } from '../../src/volume/groups.js'
import type { Store } from '../../src/volume/open-store.js'
import { entryOf } from '../../src/volume/point-disk.js'
import type { CreatePointOptions, PointInfo } from '../../src/volume/snappoint.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import type { Volume } from '../../src/volume/volume.js'
import { readAll } from '../volume/lab.js'
import { type DiskName, freshArray, type MemberDisks, type Opened, openMembers, SIZE, UUIDS } from '../crash/group-lab.js'
import { Wire } from './lab.js'

export { SIZE }

export const MIRRORS = {
  local: '00000000-0000-4000-8000-0000000000c1',
  remote: '00000000-0000-4000-8000-0000000000c2',
} as const
export type Which = keyof typeof MIRRORS

/** A target that is far away: requests and replies get lost, or the link is down. */
export class Network {
  /** Reads as what it holds, whatever the link does; survives crashes of the source. */
  readonly disk = new MemoryDisk(SIZE)
  /** Of 1,000 requests so many are lost on the way, and of so many the reply. */
  lossPerMille = 0
  isDown = false
  /** Called after everything that was done at the far side. */
  onDone: () => void = () => undefined
  readonly #random: Random
  #life = 0

  constructor(random: Random) { this.#random = random }

  /** Who was connected is gone: nothing more of it arrives. */
  forget(): void { this.#life++ }

  /** The disk of a target volume fails as often as the network does, but never for whoever writes to it of their own. */
  trouble(): void {
    if (this.#random(1000) < this.lossPerMille) throw new NbdeltaError('io', 'the disk failed')
  }

  connect(): Wire {
    if (this.isDown) throw new NbdeltaError('unreachable', 'nobody answers')
    const wire = new Wire(this.disk)
    const life = this.#life
    const passed = (): void => {
      if (life !== this.#life || this.isDown || this.#random(1000) < this.lossPerMille) throw new NbdeltaError('io', 'the link was lost')
    }
    wire.onRequest = passed
    // A reply that is lost: it was done, and nobody knows.
    for (const kind of ['write', 'zero', 'flush'] as const) {
      const done = wire[kind].bind(wire) as (...args: unknown[]) => Promise<void>
      Object.assign(wire, { [kind]: async (...args: unknown[]) => {
        await done(...args)
        this.onDone()
        passed()
      } })
    }
    return wire
  }
}

/** @param seqs how many points a volume can have had */
export function freshDisks<Note>(lateFlush: boolean, seqs?: number, sizeBytes?: number): Promise<DiskArray<DiskName, Note>> {
  return freshArray<Note>(lateFlush, seqs, sizeBytes)
}

/** One life of the process that has the volumes. */
export class Node {
  readonly source: StoreVolume & Volume
  readonly target: StoreVolume & Volume
  /** Somebody's own write to the target. */
  readonly writeApart: Volume['write']
  readonly mirrors: Readonly<Record<Which, Mirror>>
  readonly clock: ManualClock
  /** Both mirrors as one; they share their source. */
  readonly group: MirrorGroup
  /** The local one alone, whose target is of the same store. */
  readonly reversal: MirrorGroup
  /** Done before several are frozen together. */
  beforeFreeze: () => Promise<void> = async () => undefined
  /** Done with what was frozen then. */
  afterFreeze: (image: PointInfo) => Promise<void> = async () => undefined
  readonly #opened: Opened

  private constructor(opened: Opened, network: Network, clock: ManualClock) {
    this.#opened = opened
    this.clock = clock
    const [source, target] = opened.volumes
    this.source = dressed(source!, 'a')
    this.target = dressed(target!, 'b')
    const write = this.target.write.bind(this.target)
    this.writeApart = write
    this.target.write = (...args) => {
      network.trouble()
      return write(...args)
    }
    this.mirrors = { local: this.#mirror('local', network), remote: this.#mirror('remote', network) }
    const store = storeOf(opened.table, [this.source, this.target])
    this.reversal = new MirrorGroup([this.mirrors.local], store, nothingPulled())
    this.group = new MirrorGroup(Object.values(this.mirrors), {
      ...store,
      createPointsTogether: async wanted => {
        await this.beforeFreeze()
        const made = await store.createPointsTogether(wanted)
        await this.afterFreeze(made[0]!.point)
        return made
      },
    }, nothingPulled())
  }

  static async open(disks: MemberDisks, network: Network, clock = new ManualClock()): Promise<Node> {
    return new Node(await openMembers(disks, clock), network, clock)
  }

  /** What clients of the target see; undefined: nothing yet. */
  async shown(): Promise<{ readonly origin: string, readonly content: Buffer } | undefined> {
    const declared = this.mirrors.local.shownPoint()
    if (!declared) return undefined
    const device = this.target.points.open(declared.name)
    try { return { origin: declared.labels['origin']!, content: await readAll(device) } } finally { await device.close() }
  }

  #mirror(which: Which, network: Network): Mirror {
    const { table } = this.#opened
    const uuid = MIRRORS[which]
    const entry = table.mirrors().find(one => one.uuid === uuid)
    const record: MirrorRecord = entry ? { ...entry, state: judgeState(entry.state) } : {
      uuid, name: which, volume: UUIDS.a, state: {
        target: which === 'local' ? { kind: 'volume', uuid: UUIDS.b } : { kind: 'nbd', uri: 'nbd://far' },
        mode: 'periodic', timeoutSeconds: 5, intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, keepSnapshots: 0, phase: 'copying',
        paused: false,
        blank: true, keep: false, cycle: 0, base: null, passed: 0, epoch: 1, releasing: false, doubtful: false,
      },
    }
    const target = which === 'remote' ? new DeviceTarget('far', async () => network.connect())
      : new VolumeTarget({
        mirror: { uuid, name: which }, volume: () => this.target,
        resize: async () => { throw new Error('sizes are fixed here') },
      })
    return new Mirror({
      record, target, clock: this.clock, logs: new LogBudget(), logger: silentLogger, source: () => this.source, put: next => table.put({ mirrors: [next] }),
    })
  }
}

/** Of a store in which there is no room for a volume more. */
export function nothingPulled(): PulledVolumes {
  const none = async (): Promise<never> => { throw new Error('volumes stay as they are here') }
  return new PulledVolumes({ list: () => [], get: () => undefined, fillVolume: none, deleteVolume: none }, silentLogger)
}

/** What groups of mirrors need of a store, over volumes that share a table. */
export function storeOf(
  table: PointTable, volumes: readonly (StoreVolume & Volume)[],
): Pick<Store, 'createPointsTogether' | 'putMirrors' | 'restoreTogether'> {
  return {
    putMirrors: mirrors => table.put({ mirrors }),
    restoreTogether: async ([wanted, ...others]) => {
      if (others.length > 0) throw new Error('one at a time here')
      const { volume, ...options } = wanted!
      return volumes.find(({ name }) => name === volume)!.restore(options)
    },
    createPointsTogether: async wanted => {
      const members = wanted.map(({ volume }) => volumes.find(({ name }) => name === volume)!)
      const optionsOf = (place: number): CreatePointOptions => {
        const { volume: _, ...options } = wanted[place]!
        return options
      }
      const points = await createGroupPoints(members as unknown as Parameters<typeof createGroupPoints>[0], optionsOf,
        records => table.put({ points: records.map(({ volume, record }) => entryOf(volume, record)) }))
      return members.map(({ name }, index) => ({ volume: name, point: points[index]! }))
    },
  }
}

/** What of a store's volume mirrors look at. */
export function dressed(volume: Volume, name: 'a' | 'b'): StoreVolume & Volume {
  return Object.assign(volume, {
    uuid: UUIDS[name], name, backing: null, createdAt: '2026-01-01T00:00:00.000Z', description: '', problem: undefined,
  }) as unknown as StoreVolume & Volume
}
