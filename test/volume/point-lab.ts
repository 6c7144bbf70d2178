/** Volumes with points on memory disks: the table, folders and files of points, as a store has them. */
import { divCeil } from '../../native-free/integer.js'
import { MemoryDisk } from '../../src/device/testing.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import { formatPointMaps, pointMapsLayout } from '../../src/store/point-maps.js'
import type { MapIdentity } from '../../src/store/map-file.js'
import { PointDisk } from '../../src/volume/point-disk.js'
import type { PointFiles, PointRecord, PointStore } from '../../src/volume/point-store.js'
import type { PointKind } from '../../src/volume/snappoint.js'
import { GRAIN, UUID } from './lab.js'

interface Folder { readonly kind: PointKind, readonly sizeBytes: number, readonly maps: MemoryDisk, readonly preserved: MemoryDisk | undefined }

/** Everything of it is there at once and stays: what a killed process leaves. `fork` is that. */
export class MemoryPoints implements PointStore {
  inDoubt = false
  readonly table = new Map<number, PointRecord>()
  readonly present = new Map<number, Folder>()
  readonly grainBytes: number
  highest = 0
  /** Set: puts fail with it. */
  putError: Error | undefined
  /** Called with each device before it is used: to plant faults. */
  wrap: (disk: MemoryDisk, what: 'maps' | 'preserved') => BlockDevice = disk => disk

  constructor(grainBytes = GRAIN) { this.grainBytes = grainBytes }

  /** As a kill leaves it. */
  fork(): MemoryPoints {
    const copy = new MemoryPoints(this.grainBytes)
    for (const [seq, record] of this.table) copy.table.set(seq, record)
    for (const [seq, { kind, sizeBytes, maps, preserved }] of this.present) {
      copy.present.set(seq, { kind, sizeBytes, maps: maps.fork(), preserved: preserved?.fork() })
    }
    copy.highest = this.highest
    return copy
  }

  list(): readonly PointRecord[] { return [...this.table.values()].sort((a, b) => a.seq - b.seq) }
  nextSeq(): number { return ++this.highest }

  async put(points: readonly PointRecord[], remove: readonly PointRecord[]): Promise<void> {
    await Promise.resolve()
    if (this.putError) throw this.putError
    for (const { seq } of remove) this.table.delete(seq)
    for (const record of points) this.table.set(record.seq, record)
  }

  async folders() {
    return [...this.present].map(([seq, { kind, sizeBytes }]) => ({ seq, kind, sizeBytes })).sort((a, b) => a.seq - b.seq)
  }

  async make(seq: number, kind: PointKind, sizeBytes: number): Promise<PointFiles> {
    const grains = divCeil(sizeBytes, this.grainBytes)
    const maps = new MemoryDisk(pointMapsLayout(grains, kind).sizeBytes)
    await formatPointMaps(maps, identityOf(seq), grains, kind)
    this.present.set(seq, { kind, sizeBytes, maps, preserved: kind === 'snapshot' ? new MemoryDisk(sizeBytes) : undefined })
    return (await this.open(seq, kind, sizeBytes)).fresh()
  }

  async open(seq: number, kind: PointKind, sizeBytes: number): Promise<PointDisk> {
    const { maps, preserved } = this.present.get(seq)!
    const files = {
      maps: this.wrap(maps, 'maps'), preserved: preserved && this.wrap(preserved, 'preserved'), close: async () => undefined,
    }
    return new PointDisk(files, identityOf(seq), divCeil(sizeBytes, this.grainBytes), kind)
  }

  async markDeleted(seq: number): Promise<void> { this.present.delete(seq) }
  async removeDeleted(): Promise<void> {}
}

/** With a staging log, on a disk that volumes do not close. */
export class StagedPoints<Log extends MemoryDisk = MemoryDisk> extends MemoryPoints {
  readonly log: Log

  constructor(log: Log) {
    super()
    this.log = log
    log.close = async () => undefined
  }

  override fork(): StagedPoints { return Object.assign(new StagedPoints(this.log.fork()), super.fork()) }
  async staged() { return { device: this.log, owner: Buffer.from(UUID.replaceAll('-', ''), 'hex'), name: 'staging log' } }
}

function identityOf(seq: number): MapIdentity {
  return { owner: Buffer.from(UUID.replaceAll('-', ''), 'hex'), name: `point ${seq}`, point: seq }
}
