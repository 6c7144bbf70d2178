/**
 * A story of files beside a store: images exported, imported and adopted, deltas exported, merged and imported, one thing after the
 * other, among writes, snapshots and restores. When the power has failed at some moment of it: a file that was answered is whole and
 * has its name; nothing else has a name but what ends with `.part`; a volume that a delta was brought into is at its base or where
 * the delta leads to (of a full stream: a mixture, if it was cut short), and a file that a volume had adopted holds, once that is
 * deleted, what it showed (D1, D2, D6).
 *
 * Undo snapshots are store-story.ts's: here they come and go.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { undoImports } from '../../src/daemon-imports.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { syncFolder } from '../../src/device/sync-folder.js'
import type { Random } from '../../src/device/testing.js'
import { mergeDeltas } from '../../src/volume/delta-merge.js'
import { freePointName } from '../../src/volume/free-name.js'
import { exportImage, importImage } from '../../src/volume/image.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { PointInfo } from '../../src/volume/snappoint.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import { type DeltaFile, deltasOf, judgeFiles, type FilesWorld, type Held } from './files-judge.js'
import type { Tale } from './lives.js'
import type { RecordedFolder } from './recorded-folder.js'
import { contentsOf, durable, exactly } from './sectors.js'

const GRAIN = 4096
const SECTORS_MAX = 64
const VOLUMES_MAX = 3
const FILES_MAX = 6
const POINTS_MAX = 3
const STEPS = 24
const PAUSES_MS = [0, 0, 2, 15]
const REFUSALS = ['busy', 'wrong-state', 'bad-argument', 'exists', 'not-found', 'too-large']
const CONTROL = { signal: new AbortController().signal, onProgress: () => undefined }

interface FilesNote { readonly text: string, readonly worlds: readonly FilesWorld[] }

export const fileTale: Tale<FilesWorld, FilesNote> = {
  tell: (folder, random, recorded, world, serial) => new FileStory(folder, random, recorded, world, serial).run(STEPS),
  recover: async (folder, random) => {
    const store = await openStore({ path: join(folder, 'store') }).catch(() => undefined)
    if (store) await undoImports(store, silentLogger)
    await sleep(random(10))
    await store?.close()
  },
  judge: async (folder, notes, ending) => {
    const last = notes.at(-1)
    if (!last) return { world: undefined }
    const found = await judgeFiles(folder, last.worlds, ending)
    return typeof found === 'string' ? `${last.text}: ${found}` : found
  },
}

class FileStory {
  readonly #random: Random
  readonly #folder: string
  readonly #recorded: RecordedFolder
  #world: FilesWorld
  #store!: Store
  #serial: number

  constructor(folder: string, random: Random, recorded: RecordedFolder, world: FilesWorld | undefined, serial: number) {
    this.#random = random
    this.#folder = folder
    this.#recorded = recorded
    // What ends before anything is done has to be that.
    if (world) recorded.note({ text: 'begin', worlds: [world] } satisfies FilesNote)
    this.#world = world ?? { volumes: new Map(), files: new Map() }
    this.#serial = serial
  }

  async run(steps: number): Promise<void> {
    await fs.promises.mkdir(join(this.#folder, 'out'), { recursive: true })
    await syncFolder(this.#folder)
    await this.#open()
    for (let i = 0; i < steps; i++) {
      await this.#step()
      await new Promise<void>(resolve => { setTimeout(resolve, PAUSES_MS[this.#random(PAUSES_MS.length)]) })
    }
    await this.#do('close', [this.#flushed()], () => this.#store.close())
  }

  /**
   * What is refused has changed nothing. @param worlds behind it; all but the last one: while it runs
   * @param look what it has become, where that is known only then
   */
  async #do(
    text: string, worlds: readonly FilesWorld[], work: () => Promise<unknown>, look?: () => Promise<FilesWorld>,
  ): Promise<boolean> {
    this.#note(text, [this.#world, ...worlds])
    try {
      await work()
      this.#world = await look?.() ?? worlds.at(-1)!
      return true
    } catch (error) {
      if (!(error instanceof NbdeltaError) || !REFUSALS.includes(error.code)) throw error
      return false
    } finally {
      this.#note(`${text}: over`, [this.#world])
    }
  }

  #note(text: string, worlds: readonly FilesWorld[]): void { this.#recorded.note({ text, worlds } satisfies FilesNote) }

  async #open(): Promise<void> {
    await this.#do('open', [this.#world], async () => {
      this.#store = await openStore({ path: join(this.#folder, 'store'), create: true })
      await undoImports(this.#store, silentLogger)
    })
  }

  async #step(): Promise<void> {
    const random = this.#random
    const names = [...this.#world.volumes.keys()]
    if (names.length === 0) return this.#createVolume()
    const volume = this.#store.get(names[random(names.length)]!)!
    const roll = random(31)
    if (roll < 7) await this.#change(volume)
    else if (roll < 8) await this.#flush(volume)
    else if (roll < 11) await this.#snapshot(volume)
    else if (roll < 12) await this.#deletePoint(volume)
    else if (roll < 14) await this.#restore(volume)
    else if (roll < 15) await this.#createVolume()
    else if (roll < 17) await this.#deleteVolume(volume)
    else if (roll < 20) await this.#exportImage(volume)
    else if (roll < 21) await this.#adopt()
    else if (roll < 23) await this.#importImage(volume)
    else if (roll < 26) await this.#exportDelta(volume)
    else if (roll < 28) await this.#importDelta()
    else if (roll < 29) await this.#merge()
    else if (roll < 30) await this.#resize(volume)
    else {
      await this.#do('close', [this.#flushed()], () => this.#store.close())
      await this.#open()
    }
  }

  async #createVolume(): Promise<void> {
    if (this.#world.volumes.size < VOLUMES_MAX) await this.#createBlank(8 + this.#random(SECTORS_MAX - 8))
  }

  async #createBlank(sectors: number): Promise<string> {
    const name = `v${++this.#serial}`
    await this.#do(`create ${name}`, [this.#with(name, freshly(Array<number>(sectors).fill(0)))],
      () => this.#store.createVolume({ name, sizeBytes: sectors * SECTOR, grainBytes: GRAIN }))
    return name
  }

  /** A write, zeros or whole grains trimmed. */
  async #change(volume: StoreVolume): Promise<void> {
    const random = this.#random
    const held = this.#held(volume)
    const { length } = held.now
    const kind = (['write', 'write', 'zero', 'trim'] as const)[random(4)]!
    const start = kind === 'trim' ? random(Math.ceil(length / 8)) * 8 : random(length)
    const end = Math.min(length, start + (kind === 'trim' ? 16 : 1 + random(24)))
    const value = kind === 'write' ? ++this.#serial : 0
    const bytes = (end - start) * SECTOR
    const after = changed(held, start, end, () => value)
    await this.#do(`${kind} ${volume.name} ${start}-${end} ${value}`, [this.#with(volume.name, after)], async () => {
      if (kind === 'write') await volume.write(start * SECTOR, bytes, contentOf(value, bytes), 0)
      else if (kind === 'zero') await volume.zero(start * SECTOR, bytes, { allocate: false, fast: false })
      else await volume.trim(start * SECTOR, bytes)
      // A trim is a hint.
    }, async () => this.#with(volume.name, kind === 'trim' ? { ...after, now: await contentsOf(volume) } : after))
  }

  async #flush(volume: StoreVolume): Promise<void> {
    await this.#do(`flush ${volume.name}`, [this.#with(volume.name, flushed(this.#held(volume)))], async () => { await volume.flush() })
  }

  async #snapshot(volume: StoreVolume): Promise<void> {
    const held = this.#held(volume)
    if (held.points.size >= POINTS_MAX) return
    const name = `p${++this.#serial}`
    const points = new Map([...held.points, [name, held.now]])
    await this.#do(`snapshot ${volume.name}@${name}`, [this.#with(volume.name, { ...flushed(held), points })],
      () => volume.points.create({ name, kind: 'snapshot' }))
  }

  #point(volume: StoreVolume): string | undefined {
    const names = [...this.#held(volume).points.keys()]
    return names[this.#random(names.length)]
  }

  async #deletePoint(volume: StoreVolume): Promise<void> {
    const name = this.#point(volume)
    if (name === undefined) return
    const held = this.#held(volume)
    const points = new Map([...held.points].filter(([other]) => other !== name))
    await this.#do(`delete ${volume.name}@${name}`, [this.#with(volume.name, { ...held, points })], () => volume.points.delete(name))
  }

  async #restore(volume: StoreVolume, from = this.#point(volume), isSlow = this.#random(2) === 0): Promise<void> {
    if (from === undefined) return
    const held = this.#held(volume)
    const content = held.points.get(from)!
    const now = held.now.map((value, sector) => content[sector] ?? value)
    await this.#do(`restore ${volume.name}@${from}`, [this.#with(volume.name, { ...held, now, sectors: exactly(now) })], async () => {
      const { finished } = await volume.restore({ from, ...isSlow ? { bytesPerSecond: 8 * GRAIN } : {} })
      finished.catch(() => undefined)
    })
    // Nothing differed, perhaps, and then nothing was made durable.
    this.#world = this.#with(volume.name, { ...this.#held(volume), sectors: changed(held, 0, now.length, sector => now[sector]!).sectors })
  }

  async #deleteVolume({ name }: StoreVolume): Promise<void> {
    const { backing, now } = this.#world.volumes.get(name)!
    const volumes = new Map([...this.#world.volumes].filter(([other]) => other !== name))
    const after = backing === undefined ? { ...this.#world, volumes } : { ...this.#withFile(backing, { kind: 'image', content: now }), volumes }
    await this.#do(`delete ${name}`, [after], () => this.#store.deleteVolume(name))
  }

  async #resize(volume: StoreVolume): Promise<void> {
    const held = this.#held(volume)
    const count = 8 + this.#random(SECTORS_MAX - 8)
    const resized = <T>(all: readonly T[], zero: T): T[] => Array.from({ length: count }, (_, sector) => all[sector] ?? zero)
    const after = { ...held, now: resized(held.now, 0), sectors: resized(held.sectors, new Set([0])) }
    await this.#do(`resize ${volume.name} ${count}`, [this.#with(volume.name, after)], () => this.#store.resizeVolume(volume.name, count * SECTOR))
  }

  /** A new name, or that of a file that is overwritten. */
  #place(): { readonly name: string, readonly path: string, readonly overwrite: boolean } {
    const names = [...this.#world.files.keys()]
    const overwrite = names.length > 0 && (names.length >= FILES_MAX || this.#random(3) === 0)
    const name = overwrite ? names[this.#random(names.length)]! : `f${++this.#serial}`
    return { name, path: join(this.#folder, 'out', name), overwrite }
  }

  async #exportImage(volume: StoreVolume): Promise<void> {
    const { name, path, overwrite } = this.#place()
    await this.#do(`export ${volume.name} to ${name}`, [this.#withFile(name, { kind: 'image', content: this.#held(volume).now })],
      () => exportImage(volume, path, { overwrite }))
  }

  #image(): { readonly name: string, readonly path: string, readonly content: readonly number[] } | undefined {
    const images = [...this.#world.files].flatMap(([name, file]) => file.kind === 'image' ? [{ name, content: file.content }] : [])
    const image = images[this.#random(images.length)]
    return image && { ...image, path: join(this.#folder, 'out', image.name) }
  }

  async #adopt(): Promise<void> {
    const image = this.#image()
    if (!image || this.#world.volumes.size >= VOLUMES_MAX) return
    const name = `a${++this.#serial}`
    const files = new Map([...this.#world.files].filter(([other]) => other !== image.name))
    const after = { ...this.#with(name, { ...freshly(image.content), backing: image.name }), files }
    await this.#do(`adopt ${image.name} as ${name}`, [after], () => this.#store.createVolume({ name, backing: image.path, grainBytes: GRAIN }))
  }

  /** As a new volume, or over the one that is there. */
  async #importImage(volume: StoreVolume): Promise<void> {
    const image = this.#image()
    if (!image) return
    const { content, path } = image
    if (this.#world.volumes.size < VOLUMES_MAX) {
      const name = `i${++this.#serial}`
      const wanted = { name, sizeBytes: content.length * SECTOR, grainBytes: GRAIN }
      await this.#do(`import ${image.name} as ${name}`, [this.#with(name, freshly(content))], () => this.#store.importVolume(wanted, path))
      return
    }
    const held = this.#held(volume)
    if (held.now.length < content.length) return
    const after = changed(held, 0, held.now.length, sector => content[sector] ?? 0)
    const worlds = [this.#with(volume.name, { ...after, isMixed: true }), this.#with(volume.name, flushed(after))]
    await this.#do(`import ${image.name} over ${volume.name}`, worlds, () => importImage(volume, path))
  }

  async #exportDelta(volume: StoreVolume): Promise<void> {
    const [to, base] = [this.#point(volume), this.#random(2) === 0 ? this.#point(volume) : undefined]
    if (to === undefined) return
    const { points } = this.#held(volume)
    const uuidOf = (name: string): string => uuidsOf(volume.points.get(name)!)[0]!
    const file: DeltaFile = {
      kind: 'delta', to: { uuid: uuidOf(to), content: points.get(to)! },
      from: base === undefined ? undefined : { uuid: uuidOf(base), content: points.get(base)! },
    }
    const { name, path, overwrite } = this.#place()
    const compress = this.#random(2) === 0 ? 'gzip' : undefined
    await this.#do(`delta of ${volume.name} from ${base} to ${to} as ${name}`, [this.#withFile(name, file)], async () => {
      const { run } = await deltasOf(this.#store).prepareExport({ volume: volume.name, to, from: base, path, overwrite, compress })
      await run(CONTROL)
    })
  }

  #deltas(): (readonly [name: string, file: DeltaFile])[] {
    return [...this.#world.files].flatMap(([name, file]) => file.kind === 'delta' ? [[name, file] as const] : [])
  }

  /** Into a volume that is at its base, or is brought there before; a full stream into a new one. */
  async #importDelta(): Promise<void> {
    const deltas = this.#deltas()
    const [name, file] = deltas[this.#random(deltas.length)] ?? []
    if (name === undefined || !file) return
    if (!file.from) {
      if (this.#world.volumes.size < VOLUMES_MAX) await this.#apply(await this.#createBlank(file.to.content.length), name, file)
      return
    }
    const { uuid, content } = file.from
    for (const volume of this.#store.list()) {
      const base = volume.points.list().find(point => uuidsOf(point).includes(uuid))
      if (!base || !this.#held(volume).points.has(base.name) || this.#held(volume).now.length !== content.length) continue
      if (this.#random(4) > 0) await this.#restore(volume, base.name, false)
      return this.#apply(volume.name, name, file)
    }
  }

  async #apply(of: string, name: string, { from, to }: DeltaFile): Promise<void> {
    const volume = this.#store.get(of)!
    const held = this.#held(volume)
    const point = freePointName(volume, `delta-${to.uuid.slice(0, 8)}`)
    const mixed = { ...changed(held, 0, held.now.length, sector => to.content[sector] ?? 0), isMixed: true }
    const after = { ...held, ...freshly(to.content), points: new Map([...held.points, [point, to.content]]), backing: held.backing }
    await this.#do(`import delta ${name} into ${of}`, [...from ? [this.#with(of, flushed(held))] : [this.#with(of, mixed)], this.#with(of, after)], async () => {
      const { run } = await deltasOf(this.#store).prepareImport({ volume: of, path: join(this.#folder, 'out', name) })
      await run(CONTROL)
    })
  }

  async #merge(): Promise<void> {
    const deltas = this.#deltas()
    const pairs = deltas.flatMap(first => deltas.filter(([, { from }]) => from?.uuid === first[1].to.uuid).map(second => [first, second] as const))
    const [older, newer] = pairs[this.#random(pairs.length)] ?? []
    if (!older || !newer) return
    const { name, path, overwrite } = this.#place()
    const sources = [older, newer].map(([source]) => join(this.#folder, 'out', source))
    await this.#do(`merge ${older[0]} and ${newer[0]} to ${name}`, [this.#withFile(name, { kind: 'delta', from: older[1].from, to: newer[1].to })],
      () => mergeDeltas({ sources, sink: path, overwrite, compress: this.#random(2) === 0 ? 'gzip' : 'none' }))
  }

  #held({ name }: StoreVolume): Held { return this.#world.volumes.get(name)! }
  #with(name: string, held: Held): FilesWorld { return { ...this.#world, volumes: new Map([...this.#world.volumes, [name, held]]) } }
  #withFile(name: string, file: FilesWorld['files'] extends ReadonlyMap<string, infer F> ? F : never): FilesWorld {
    return { ...this.#world, files: new Map([...this.#world.files, [name, file]]) }
  }
  #flushed(): FilesWorld { return { ...this.#world, volumes: new Map([...this.#world.volumes].map(([name, held]) => [name, flushed(held)])) } }
}

/** Whatever a delta may name it by; its own comes first. */
function uuidsOf({ uuid, labels }: PointInfo): string[] { return [uuid, ...labels['origin'] === undefined ? [] : [labels['origin']]] }

function freshly(now: readonly number[]): Held { return { now, sectors: exactly(now), points: new Map() } }
function flushed(held: Held): Held { return { ...durable(held), isMixed: false } }

function changed(held: Held, start: number, end: number, valueOf: (sector: number) => number): Held {
  const isIn = (sector: number): boolean => sector >= start && sector < end
  return {
    ...held, now: held.now.map((value, sector) => isIn(sector) ? valueOf(sector) : value),
    sectors: held.sectors.map((values, sector) => isIn(sector) ? new Set([...values, valueOf(sector)]) : values),
  }
}
