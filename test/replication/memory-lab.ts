/**
 * Mirrors of one volume, in memory: to a volume that shares its table of points, and to a disk behind a network. Everything that is
 * durable is on the disks of one array, so that a crash can be had at any moment; the network is seeded, and loses what it is told to.
 */
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { type DiskArray, ManualClock, MemoryDisk, type Random } from '../../src/device/testing.js'
import { DeviceTarget } from '../../src/replication/device-target.js'
import { Mirror } from '../../src/replication/mirror.js'
import { judgeState, type MirrorRecord } from '../../src/replication/mirror-record.js'
import { VolumeTarget } from '../../src/replication/volume-target.js'
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
export function freshDisks<Note>(lateFlush: boolean, seqs?: number): Promise<DiskArray<DiskName, Note>> {
  return freshArray<Note>(lateFlush, seqs)
}

/** One life of the process that has the volumes. */
export class Node {
  readonly source: StoreVolume & Volume
  readonly target: StoreVolume & Volume
  /** Somebody's own write to the target. */
  readonly writeApart: Volume['write']
  readonly mirrors: Readonly<Record<Which, Mirror>>
  readonly clock: ManualClock
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
  }

  static async open(disks: MemberDisks, network: Network, clock = new ManualClock()): Promise<Node> {
    return new Node(await openMembers(disks, clock), network, clock)
  }

  /** What clients of the target see; undefined: nothing yet. */
  async shown(): Promise<{ readonly origin: string, readonly content: Buffer } | undefined> {
    const declared = this.mirrors.local.declaredPoint()
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
        intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, phase: 'copying', paused: false, blank: true, keep: false, cycle: 0,
        base: null, epoch: 1,
      },
    }
    const target = which === 'remote' ? new DeviceTarget('far', async () => network.connect())
      : new VolumeTarget({
        mirror: { uuid, name: which }, volume: () => this.target,
        resize: async () => { throw new Error('sizes are fixed here') },
      })
    return new Mirror({
      record, target, clock: this.clock, logger: silentLogger, source: () => this.source, put: next => table.put({ mirrors: [next] }),
    })
  }
}

/** What of a store's volume mirrors look at. */
function dressed(volume: Volume, name: 'a' | 'b'): StoreVolume & Volume {
  return Object.assign(volume, {
    uuid: UUIDS[name], name, backing: null, createdAt: '2026-01-01T00:00:00.000Z', description: '', problem: undefined,
  }) as unknown as StoreVolume & Volume
}
