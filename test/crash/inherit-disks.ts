/** What a volume inherits, on disks of a DiskArray: its entry in the table of points, and a file for the bitmap of each layer. */
import type { Inheritance } from '../../src/store/point-entry.js'
import { TODO_FILE_BYTES, todoMap } from '../../src/store/point-maps.js'
import type { PointTable } from '../../src/store/point-table.js'
import { InheritDisk } from '../../src/volume/inherit-disk.js'
import type { InheritFile, InheritStore } from '../../src/volume/inherit-store.js'
import type { LayerKind } from '../../src/volume/inherited.js'
import type { PointRecord } from '../../src/volume/point-store.js'
import type { Devices } from './point-disks.js'

export function layerNames(prefix: string): string[] { return [`${prefix}restore`, `${prefix}clone`] }

export class InheritDisks implements InheritStore {
  readonly #uuid: string
  readonly #prefix: string
  readonly #table: PointTable
  readonly #devices: Devices

  constructor(uuid: string, prefix: string, table: PointTable, devices: Devices) {
    this.#uuid = uuid
    this.#prefix = prefix
    this.#table = table
    this.#devices = devices
  }

  get inheritance(): Inheritance | null { return this.#table.state(this.#uuid).inherit }

  async put(points: readonly PointRecord[], inherit: Inheritance | null): Promise<void> {
    const volume = this.#uuid
    await this.#table.put({
      points: points.map(({ deleting, ...info }) => ({ ...info, volume, state: deleting ? 'deleting' as const : 'ready' as const })),
      volumes: [{ volume, inherit }],
    })
  }

  async make(kind: LayerKind, grains: number, fill: boolean): Promise<InheritFile> {
    const device = this.#devices(this.#prefix + kind)
    await device.resize(0)
    await device.resize(TODO_FILE_BYTES)
    await todoMap(device, this.#identity(kind), grains).format(fill)
    await device.flush()
    return (await this.open(kind, grains)).fresh(fill)
  }

  async open(kind: LayerKind, grains: number): Promise<InheritDisk> {
    const device = this.#devices(this.#prefix + kind)
    device.close = async () => undefined
    return new InheritDisk(device, this.#identity(kind), grains)
  }

  async remove(): Promise<void> {}

  #identity(kind: LayerKind) { return { owner: Buffer.from(this.#uuid.replaceAll('-', ''), 'hex'), name: `layer ${kind}` } }
}
