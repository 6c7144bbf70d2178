/**
 * A volume in memory that has snappoints, the obvious way: a snapshot is a fork, what changed is a set of grains a point.
 * It stands for a store's volume where only the exports are to be tested.
 */
import type { Extents, Pending, ZeroMode } from '../../../src/device/block-device.js'
import { NbdeltaError } from '../../../src/device/errors.js'
import { ExtentList } from '../../../src/device/extent-list.js'
import { MemoryDisk } from '../../../src/device/memory-disk.js'
import type { PointDevice, PointInfo, Store, StoreVolume } from '../../../src/index.js'
import type { Run } from '../../../src/volume/volume-map.js'

export const GRAIN = 4096

interface Point {
  readonly info: PointInfo
  readonly content: MemoryDisk
  readonly changed: Set<number>
}

export class PointedDisk extends MemoryDisk {
  readonly uuid: string
  readonly grainBytes = GRAIN
  readonly description = ''
  problem: NbdeltaError | undefined
  readonly points: FakePoints

  constructor(readonly name: string, sizeBytes: number) {
    super(sizeBytes)
    this.uuid = `uuid-of-${name}`
    this.points = new FakePoints(this)
  }

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    this.points.mark(offset, length)
    return super.write(offset, length, from, at)
  }
  override zero(offset: number, length: number, mode: ZeroMode): Pending {
    this.points.mark(offset, length)
    return super.zero(offset, length, mode)
  }
  override trim(offset: number, length: number): Pending {
    this.points.mark(offset, length)
    return super.trim(offset, length)
  }
}

export class FakePoints {
  readonly #live: PointedDisk
  #points: Point[] = []
  #seq = 0
  /** Snapshots that are open, by name. */
  readonly attached = new Map<string, number>()

  constructor(live: PointedDisk) { this.#live = live }

  mark(offset: number, length: number): void {
    const newest = this.#points.at(-1)
    for (let grain = Math.floor(offset / GRAIN); grain * GRAIN < offset + length; grain++) newest?.changed.add(grain)
  }

  add(name: string, kind: PointInfo['kind'] = 'snapshot', labels: Record<string, string> = {}): void {
    const info: PointInfo = {
      uuid: `uuid-of-${name}`, seq: ++this.#seq, name, kind, createdAt: '2024-05-06T07:08:09.000Z', sizeBytes: this.#live.sizeBytes,
      labels, group: null, pins: [],
    }
    this.#points.push({ info, content: this.#live.fork({ readOnly: true }), changed: new Set() })
  }

  list(): PointInfo[] { return this.#points.map(({ info }) => info) }
  get(name: string): PointInfo | undefined { return this.list().find((info) => info.name === name) }

  delete(name: string): void {
    if ((this.attached.get(name) ?? 0) > 0) throw new NbdeltaError('busy', 'in use')
    const at = this.#indexOf(name)
    const older = this.#points[at - 1]
    for (const grain of this.#points[at]!.changed) older?.changed.add(grain)
    this.#points.splice(at, 1)
  }

  changedRuns(since: string, until?: string): Run[] {
    const from = this.#indexOf(since)
    const between = this.#points.slice(from, until === undefined ? undefined : this.#indexOf(until))
    const grains = [...new Set(between.flatMap(({ changed }) => [...changed]))].sort((a, b) => a - b)
    const runs: { start: number, end: number }[] = []
    for (const grain of grains) {
      const last = runs.at(-1)
      if (last?.end === grain) last.end++
      else runs.push({ start: grain, end: grain + 1 })
    }
    return runs
  }

  open(name: string): PointDevice {
    const { info, content } = this.#points[this.#indexOf(name)]!
    this.attached.set(name, (this.attached.get(name) ?? 0) + 1)
    const device = content.fork({ readOnly: true })
    return Object.assign(device, {
      point: info,
      depths: (offset: number, length: number, most: number): Extents => this.#depths(name, offset, length, most),
      changedRuns: (since: string) => this.changedRuns(since, name),
      forget: () => undefined,
      close: async () => { this.attached.set(name, this.attached.get(name)! - 1) },
    })
  }

  /** 1 where a grain changed between this snapshot and the next point, so that the snapshot has its own; 2 below; 0 holes. */
  #depths(name: string, offset: number, length: number, most: number): Extents {
    const { content, changed } = this.#points[this.#indexOf(name)]!
    const list = new ExtentList(most)
    for (let at = offset; at < offset + length;) {
      const to = Math.min(offset + length, (Math.floor(at / GRAIN) + 1) * GRAIN)
      const hole = content.zeroRun(at, to - at) < 0
      if (!list.add(to - at, hole ? 0 : changed.has(Math.floor(at / GRAIN)) ? 1 : 2)) break
      at = to
    }
    return list
  }

  #indexOf(name: string): number {
    const at = this.#points.findIndex(({ info }) => info.name === name)
    if (at < 0) throw new NbdeltaError('not-found', `no point ${name}`)
    return at
  }
}

/** A store with these volumes, as far as exports need it. */
export function storeOf(...volumes: readonly PointedDisk[]): Store {
  const list = volumes as readonly unknown[] as StoreVolume[]
  return { list: () => [...list], get: (name: string) => list.find((volume) => volume.name === name) } as unknown as Store
}
