/** What is left of a story of files (file-story.ts): which of the worlds it is, or what is wrong with it. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { DaemonDeltas } from '../../src/daemon-deltas.js'
import { undoImports } from '../../src/daemon-imports.js'
import type { Access } from '../../src/daemon-shared.js'
import { Transfers } from '../../src/daemon-transfers.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { MemoryDisk } from '../../src/device/testing.js'
import { applyDelta } from '../../src/volume/delta.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { SECTOR, valuesOf } from '../volume/storm-model.js'
import type { Ending } from './folder-states.js'
import { contentsOf, found, problemOfSectors, problemOfSnapshot, type Sectors } from './sectors.js'

interface At { readonly uuid: string, readonly content: readonly number[] }
/** Content by sector. */
interface ImageFile { readonly kind: 'image', readonly content: readonly number[] }
export interface DeltaFile { readonly kind: 'delta', readonly from: At | undefined, readonly to: At }

/** A volume; snapshots by name. */
export interface Held extends Sectors {
  readonly points: ReadonlyMap<string, readonly number[]>
  /** Name of a file. */
  readonly backing?: string | undefined
  /** Something is on its way into it that may be there in part, whatever ends it. */
  readonly isMixed?: boolean
}

export interface FilesWorld {
  readonly volumes: ReadonlyMap<string, Held>
  /** But for those that volumes have adopted. */
  readonly files: ReadonlyMap<string, ImageFile | DeltaFile>
}

/** As the daemon has them, with nobody attached. */
export function deltasOf(store: Store): DaemonDeltas {
  const access: Access = {
    store, get: name => store.get(name)!, assertUnattached: () => undefined, assertOwn: () => undefined, assertWhole: () => undefined,
    closedToNew: (_name, work) => work(), show: () => { throw new Error('nobody looks') },
  }
  const parts = { ...access, exports: undefined, remote: undefined } as unknown as ConstructorParameters<typeof Transfers>[0]
  return new DaemonDeltas(access, new Transfers(parts))
}

export async function judgeFiles(folder: string, worlds: readonly FilesWorld[], ending: Ending): Promise<{ readonly world: FilesWorld | undefined } | string> {
  let store: Store
  try {
    store = await openStore({ path: join(folder, 'store') })
    await undoImports(store, silentLogger)
  } catch (error) {
    const isNone = error instanceof NbdeltaError && error.code === 'not-found' && worlds[0]!.volumes.size === 0 && worlds[0]!.files.size === 0
    return isNone ? { world: undefined } : `it does not open: ${String(error)}`
  }
  try {
    const problems: string[] = []
    for (const world of worlds) {
      const problem = await problemOf(folder, store, ending === 'cut' ? world : afterKill(world, worlds))
      if (problem === undefined) return { world: await foundIn(store, world, ending === 'cut') }
      problems.push(problem)
    }
    return problems.join('; or ')
  } finally {
    await store.close()
  }
}

/** A kill loses nothing. */
function afterKill(world: FilesWorld, worlds: readonly FilesWorld[]): FilesWorld {
  return { ...world, volumes: new Map([...world.volumes].map(([name, held]) => {
    const others = worlds.map(({ volumes }) => volumes.get(name)?.now).filter(now => now?.length === held.now.length)
    const sectors = held.now.map((_, sector) => new Set(others.map(now => now![sector]!)))
    return [name, held.isMixed ? held : { ...held, sectors }]
  })) }
}

async function foundIn(store: Store, world: FilesWorld, isDurable: boolean): Promise<FilesWorld> {
  const volumes = new Map<string, Held>()
  for (const [name, held] of world.volumes) {
    volumes.set(name, { ...found(held, await contentsOf(store.get(name)!), isDurable), isMixed: false })
  }
  return { ...world, volumes }
}

async function problemOf(folder: string, store: Store, { volumes, files }: FilesWorld): Promise<string | undefined> {
  const [listed, expected] = [store.list().map(({ name }) => name).sort().join(), [...volumes.keys()].sort().join()]
  if (listed !== expected) return `volumes ${listed}, not ${expected}`
  for (const [name, held] of volumes) {
    const problem = await problemOfVolume(store.get(name)!, held)
    if (problem !== undefined) return `${name}: ${problem}`
  }
  const known = new Set([...files.keys(), ...[...volumes.values()].map(({ backing }) => backing)])
  const other = readdirSync(join(folder, 'out')).find(name => !known.has(name) && !name.endsWith('.part'))
  if (other !== undefined) return `file ${other} is there`
  for (const [name, file] of files) {
    const path = join(folder, 'out', name)
    const problem = await (file.kind === 'image' ? problemOfImage(path, file) : problemOfDelta(path, file)).catch((error: Error) => error.message)
    if (problem !== undefined) return `file ${name}: ${problem}`
  }
  return undefined
}

async function problemOfVolume(volume: StoreVolume, held: Held): Promise<string | undefined> {
  if (volume.problem) return `it cannot be opened: ${volume.problem.message}`
  const now = await contentsOf(volume)
  if (now.length !== held.now.length) return `${now.length} sectors, not ${held.now.length}`
  const problem = problemOfSectors(now, held)
  if (problem !== undefined) return problem
  const points = volume.points.list().filter(({ labels }) => labels['auto'] !== 'undo').map(({ name }) => name)
  const [listed, expected] = [points.sort().join(), [...held.points.keys()].sort().join()]
  if (listed !== expected) return `points ${listed}, not ${expected}`
  for (const [name, content] of held.points) {
    const lost = await problemOfSnapshot(volume, name, content)
    if (lost !== undefined) return lost
  }
  return undefined
}

async function problemOfImage(path: string, { content }: ImageFile): Promise<string | undefined> {
  return differenceOf(readFileSync(path), content)
}

/** Whoever is at its base gets where it leads to. */
async function problemOfDelta(path: string, { from, to }: DeltaFile): Promise<string | undefined> {
  const target = new MemoryDisk(Math.max(1, from?.content.length ?? to.content.length) * SECTOR)
  for (const [sector, value] of from?.content.entries() ?? []) target.write(sector * SECTOR, SECTOR, sectorOf(value), 0)
  await applyDelta({
    source: path, target, identity: () => from?.uuid ?? 'empty', resize: bytes => target.setSize(bytes),
    commit: ({ uuid }) => { if (uuid !== to.uuid) throw new Error(`it leads to ${uuid}, not to ${to.uuid}`) },
  }).catch((error: unknown) => {
    // From a point to itself.
    if (!(error instanceof NbdeltaError) || error.code !== 'exists' || from?.uuid !== to.uuid) throw error
  })
  return differenceOf(target.toBuffer(), to.content)
}

function sectorOf(value: number): Buffer {
  const sector = Buffer.alloc(SECTOR)
  for (let at = 0; at < SECTOR; at += 4) sector.writeUInt32LE(value, at)
  return sector
}

function differenceOf(bytes: Buffer, content: readonly number[]): string | undefined {
  if (bytes.length !== content.length * SECTOR) return `${bytes.length} bytes, not ${content.length * SECTOR}`
  const values = valuesOf(bytes, content.length)
  const wrong = content.findIndex((value, sector) => values[sector] !== value)
  return wrong < 0 ? undefined : `sector ${wrong} is ${values[wrong]}, not ${content[wrong]}`
}
