/** A volume on memory disks, for the tests of this room: fresh, or opened again on what an earlier one left. */
import { divCeil } from '../../native-free/integer.js'
import type { Pending, ZeroMode } from '../../src/device/block-device.js'
import { ManualClock, MemoryDisk, type Random, seededRandom } from '../../src/device/testing.js'
import type { Logger } from '../../src/device/logger.js'
import type { LiveDevice, MetadataDevice } from '../../src/volume/core.js'
import { formatVolume, openVolume } from '../../src/volume/open-volume.js'
import type { Volume } from '../../src/volume/volume.js'
import { mapFileSizeBytes } from '../../src/store/map-file.js'

export const UUID = '00000000-0000-4000-8000-000000000001'
export const GRAIN = 4096
/** The smallest journal there is has room for 128 stale runs: limits are met early. */
export const SMALL_JOURNAL_BYTES = 32 * 1024

export interface Disks { live: LiveDevice, map: MetadataDevice, journal: MetadataDevice }

export interface LabOptions {
  readonly sizeBytes: number
  readonly grainBytes?: number
  readonly journalBytes?: number
  readonly live?: LiveDevice
  readonly allData?: boolean
}

export async function freshDisks({ sizeBytes, grainBytes = GRAIN, journalBytes = 2 ** 20, live, allData = false }: LabOptions) {
  const grains = divCeil(sizeBytes, grainBytes)
  const disks = { live: live ?? new MemoryDisk(sizeBytes), map: new MemoryDisk(mapFileSizeBytes(grains)), journal: new MemoryDisk(journalBytes) }
  await formatVolume({ uuid: UUID, grains, map: disks.map, journal: disks.journal, allData })
  return disks
}

export async function openOn(disks: Disks, sizeBytes: number, options: { grainBytes?: number, clock?: ManualClock, logger?: Logger } = {}): Promise<Volume> {
  const { grainBytes = GRAIN, clock = new ManualClock(), ...rest } = options
  return openVolume({ uuid: UUID, sizeBytes, grainBytes, ...disks, clock, ...rest })
}

export async function freshVolume(options: LabOptions & { clock?: ManualClock }): Promise<Volume> {
  const { grainBytes = GRAIN, clock = new ManualClock() } = options
  return openOn(await freshDisks(options), options.sizeBytes, { grainBytes, clock })
}

export async function readAll(volume: { read: Volume['read'], sizeBytes: number }, offset = 0, length = volume.sizeBytes - offset): Promise<Buffer> {
  const into = Buffer.alloc(length, 0xee)
  await volume.read(offset, length, into, 0)
  return into
}

/** Length and state of each extent, as text: "data 4096, zero 8192". */
export async function mapOf(volume: Volume): Promise<string> {
  const { lengths, states } = await volume.extents(0, volume.sizeBytes, 1000)
  return lengths.map((length, i) => `${states[i] === 0 ? 'data' : 'zero'} ${length}`).join(', ')
}

/** A memory disk whose requests complete at once or in one of the next turns of the event loop, as a seed decides. */
export class LateDisk extends MemoryDisk {
  readonly #random: Random
  constructor(sizeBytes: number, seed: number) {
    super(sizeBytes)
    this.#random = seededRandom(seed)
  }

  override read(offset: number, length: number, into: Buffer, at: number): Pending { return this.#some(() => super.read(offset, length, into, at)) }
  override write(offset: number, length: number, from: Buffer, at: number): Pending { return this.#some(() => super.write(offset, length, from, at)) }
  override zero(offset: number, length: number, mode: ZeroMode): Pending { return this.#some(() => super.zero(offset, length, mode)) }
  override flush(): Pending { return this.#some(() => super.flush()) }

  #some(run: () => Pending): Pending {
    const turns = this.#random(4)
    return turns === 0 ? run() : this.#later(turns, run)
  }

  async #later(turns: number, run: () => Pending): Promise<void> {
    for (let i = 0; i < turns; i++) await new Promise(resolve => { setImmediate(resolve) })
    await run()
  }
}
