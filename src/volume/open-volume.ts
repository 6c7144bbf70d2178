/**
 * Opening one volume over its three devices, and laying down the map and journal of a new one.
 *
 * Order at open: journal (says `damaged` or `newer-format` before anything is touched) -> map file -> points and layers ->
 * replay -> live is cut where a crash in a shrink left it too long -> what a failed flush left in doubt is written again. But for
 * that nothing here reads the data: time goes with the map's mixed pages and the journal's records, not with the size.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import { divCeil } from '../../native-free/integer.js'
import { allSettled } from '../device/all-settled.js'
import type { BlockDevice } from '../device/block-device.js'
import { type Clock, systemClock } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import { GroupFlush } from '../device/group-flush.js'
import { type Logger, silentLogger } from '../device/logger.js'
import { RangeLock } from '../device/range-lock.js'
import type { SpaceRule } from '../store/point-entry.js'
import { JOURNAL_MAGIC } from '../store/journal-records.js'
import { formatMapFile, MapFile, mapFileSizeBytes } from '../store/map-file.js'
import { formatRecordLog, openRecordLog } from '../store/open-record-log.js'
import { Adopter } from './adopter.js'
import { Checkpointer } from './checkpoint.js'
import { Chain } from './chain.js'
import type { LiveDevice, MetadataDevice, VolumeCore } from './core.js'
import { ExcessScan } from './excess-scan.js'
import { Gate } from './gate.js'
import { Inherited, Layer } from './inherited.js'
import type { InheritStore } from './inherit-store.js'
import { VolumeJournal } from './journal.js'
import { LiveView } from './live-view.js'
import type { PointStore } from './point-store.js'
import { loadPoints, type Opened } from './point-loading.js'
import { VolumePoints } from './points.js'
import { Preserver } from './preserver.js'
import { Reclaimer } from './reclaim.js'
import { replay, replayLayers, type Recovered } from './recovery.js'
import { Inheritor } from './restore.js'
import { ownedFrom, planRestore, rangeOf } from './restore-plan.js'
import { NO_BUDGET, Space } from './space.js'
import { Volume, type VolumeParts } from './volume.js'
import { Staging } from './staging.js'
import { UnsyncedLive, type UnsyncedPlace } from './unsynced-live.js'
import { type Run, VolumeMap } from './volume-map.js'
import { Watchers } from './watchers.js'

/** Two halves of 2 MiB: a snapshot may take 1 MiB, and then as much is free again. */
export const JOURNAL_BYTES = 4 * 2 ** 20

interface OpenVolumeOptions {
  readonly uuid: string
  /** For messages. */
  readonly name?: string
  readonly sizeBytes: number
  readonly grainBytes: number
  readonly live: LiveDevice
  /** Live is somebody's own file: its end is not cut when it is longer than the volume. */
  readonly adopted?: boolean
  readonly map: MetadataDevice
  readonly journal: BlockDevice
  /** Where its snappoints are; without, it has none. */
  readonly points?: PointStore | undefined
  /** Budget and order of sacrifice for what its points keep; without, there is no limit but the disk. */
  readonly space?: SpaceRule | undefined
  /** Where it says what it inherits; without, it can neither be restored nor be a clone. */
  readonly inherit?: InheritStore | undefined
  /** Where it is kept what of live a failed flush leaves in doubt; without, the next open believes what it reads. */
  readonly unsynced?: UnsyncedPlace | undefined
  readonly clock?: Clock
  readonly logger?: Logger
}

/** Makes map and journal of a volume whose live is all zeros, or with `allData` holds whatever it holds. Durable when done. */
export async function formatVolume(options: {
  readonly uuid: string
  readonly grains: number
  readonly map: BlockDevice
  readonly journal: BlockDevice
  readonly allData: boolean
}): Promise<void> {
  const owner = uuidBytes(options.uuid)
  await formatMapFile(options.map, { owner, name: 'map' }, options.grains, options.allData)
  await formatRecordLog(options.journal, { magic: JOURNAL_MAGIC, owner, name: 'journal' })
}

/**
 * Opens a volume; the devices are its own from then on, and closed with it, but stay the caller's when this rejects.
 * Errors: damaged (journal, or live shorter than the volume), newer-format, io.
 */
export async function openVolume(options: OpenVolumeOptions): Promise<Volume> {
  return new Volume(await openVolumeParts(options))
}

/** As `openVolume`, for whoever builds more than a plain volume on the parts. What it has opened is closed when it rejects. */
export async function openVolumeParts(options: OpenVolumeOptions): Promise<VolumeParts> {
  const opened: Opened = []
  try {
    return await openParts(options, opened)
  } catch (error) {
    await Promise.allSettled(opened.map(file => file.close()))
    throw error
  }
}

async function openParts(options: OpenVolumeOptions, opened: Opened): Promise<VolumeParts> {
  const { sizeBytes, grainBytes, clock = systemClock, logger = silentLogger, name = options.uuid } = options
  const watched = options.unsynced && new UnsyncedLive(options.live, options.unsynced, logger)
  const live = watched ?? options.live
  const [owner, journalName] = [uuidBytes(options.uuid), `journal of volume ${name}`]
  const { log, records, recovery } = await openRecordLog(options.journal, { magic: JOURNAL_MAGIC, owner, name: journalName })
  const map = new VolumeMap(divCeil(sizeBytes, grainBytes), log.limitBytes)
  const mapFile = new MapFile(options.map, { owner, name: `map of volume ${name}` }, map.grains)
  const faults = await loadMap(mapFile, options.map, map)
  const chain = new Chain(map)
  const pointNotes = options.points ? await loadPoints(options.points, chain, grainBytes, map.grains, opened) : []
  const { inherit, notes: layerNotes } = await loadLayers(options, chain, map.grains, opened)
  const found = replay(map, chain, inherit, records, journalName)
  chain.settle()
  for (const layer of inherit.layers) findAgain(layer, options, chain, map.grains)
  replayLayers(map, chain, inherit)
  const fitted = await fitLive(live, sizeBytes, options.adopted ?? false)
  fitted.push(...await watched?.settle(grainBytes, (from, to) => needed(map, chain, from, to)) ?? [])
  const notes = [...recovery, ...faults, ...pointNotes, ...layerNotes, ...fitted]
  const recovered: Recovered = { ...found, notes }
  if (faults.length > 0) map.allDirty()
  if (notes.length > 0 || found.openRegions > 0) logger.warn({ volume: name, ...recovered }, 'volume recovered after a crash')

  let staged: Staging | undefined
  const flushes = new GroupFlush(async () => {
    await allSettled([(async () => { await live.flush() })(), log.isDurable ? undefined : log.sync(), staged?.flush()])
  }, () => clock.now())
  let checkpointer: Checkpointer | undefined
  const core: VolumeCore = {
    live, map, chain, inherit, mapFile, locks: new RangeLock(), flushes, grainBytes, sizeBytes, grownBytes: 0, clock, logger,
    watchers: new Watchers(),
    mapDevice: options.map,
    journalDevice: options.journal,
    get staging() { return staged },
    get space() { return space },
    journal: new VolumeJournal(log, () => checkpointer!.join(), () => flushes.changed()),
  }
  checkpointer = new Checkpointer(core)
  const reclaimer = new Reclaimer(core)
  const view = new LiveView(core)
  const space = new Space(core, view, name, options.space ?? NO_BUDGET)
  const preserver = new Preserver(core, view, checkpointer)
  staged = options.points?.staged && new Staging(core, preserver, options.points)
  if (staged) opened.push(staged)
  await staged?.open(false)
  space.expect()
  const gate = new Gate(core, preserver, reclaimer)
  const adopter = new Adopter({ core, gate, preserver, reclaimer, checkpointer })
  const points = new VolumePoints({ core, checkpointer, reclaimer, view }, options.points)
  space.points = points
  const parts = {
    core, checkpointer, reclaimer, view, recovered, gate, adopter, points,
    scan: new ExcessScan(core, checkpointer),
    inheritor: new Inheritor({
      core, checkpointer, adopter, points, pointStore: options.points, store: options.inherit, uuid: options.uuid, name,
    }),
  }
  if (faults.length > 0) checkpointer.wanted()
  return parts
}

/** What was cut off reads as damaged, which is all data; the next checkpoint needs its place again. */
async function loadMap(mapFile: MapFile, device: OpenVolumeOptions['map'], { data, grains }: VolumeMap): Promise<string[]> {
  const isCutOff = device.sizeBytes < mapFileSizeBytes(grains)
  const faults = await mapFile.load(data)
  if (isCutOff) await device.resize(mapFileSizeBytes(grains))
  return faults
}

/** What the table says that the volume inherits. Errors: damaged, io. */
async function loadLayers(
  { inherit: store, grainBytes }: OpenVolumeOptions, chain: Chain, grains: number, opened: Opened,
): Promise<{ readonly inherit: Inherited, readonly notes: string[] }> {
  const inherit = new Inherited(grainBytes)
  const notes: string[] = []
  for (let next = store?.inheritance; next; next = next.base) {
    const { kind, undo: uuid, settled = true } = next
    const undo = uuid === null ? undefined : chain.points.find(({ info }) => info.uuid === uuid)
    if (uuid !== null && !undo) throw new NbdeltaError('damaged', `the undo point ${uuid} of a restore is not there`)
    const file = await store!.open(kind, grains)
    opened.push(file)
    const bits = new GrainBitmap(grains)
    notes.push(...await file.load(bits))
    inherit.layers.push(new Layer(kind, bits, file, undo, settled))
  }
  return { inherit, notes }
}

/** The set of a restore that is not settled may not be in its file: it is what snapshots own (restore.ts, step 3). */
function findAgain(layer: Layer, { inherit: store, uuid, grainBytes }: OpenVolumeOptions, chain: Chain, grains: number): void {
  const { undo, settled } = layer
  const entry = store?.inheritance
  if (!undo || settled || entry?.kind !== 'restore' || entry.base || entry.source.volume !== uuid) return
  const from = chain.points.find(({ info }) => info.uuid === entry.source.point)
  // That it is missing the Inheritor says.
  if (!from) return
  const { offset, length } = entry.range!
  const range = rangeOf(offset, length, from.info.sizeBytes, grainBytes)
  const plan = planRestore(grains, ownedFrom(chain.points, from, undo.seq), range, undefined)
  if (plan.rule !== 'nothing') layer.reset(plan.set)
  layer.unsaved = true
}

/** A crash in a shrink or growth leaves live too long. Too short it is only if somebody else cut it. */
async function fitLive(live: LiveDevice, sizeBytes: number, adopted: boolean): Promise<string[]> {
  if (live.sizeBytes < sizeBytes) {
    throw new NbdeltaError('damaged',
      `the volume has ${sizeBytes} bytes, but its disk only ${live.sizeBytes}: somebody else made it shorter`)
  }
  if (live.sizeBytes === sizeBytes || live.kind === 'block' || adopted) return []
  const before = live.sizeBytes
  await live.resize(sizeBytes)
  return [`live was ${before - sizeBytes} bytes too long after a resize cut short; they were cut off`]
}

/** Grains of [from, to) whose bytes in live are the volume's, or some snapshot's. */
function* needed({ data }: VolumeMap, chain: Chain, from: number, to: number): Generator<Run> {
  yield* data.runs(from, to)
  yield* chain.lentRuns(to, from)
}

function uuidBytes(uuid: string): Buffer {
  const bytes = Buffer.from(uuid.replaceAll('-', ''), 'hex')
  if (bytes.length !== 16) throw new RangeError(`${uuid} is no uuid`)
  return bytes
}

