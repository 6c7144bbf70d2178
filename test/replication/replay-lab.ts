/** What replays of both models' traces stand on: blank volumes of so many blocks, contents by block, and waiting without time passing. */
import { NbdeltaError } from '../../src/device/errors.js'
import type { MemoryDisk } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { readAll } from '../volume/lab.js'
import { G } from './lab.js'
import { freshDisks } from './memory-lab.js'

export type Disks = Record<string, MemoryDisk>

/** Points that a trace may make, one after the other. */
const SEQS = 512
/** By number of blocks; made once each. */
const blank = new Map<number, Promise<Disks>>()

export async function blankDisks(blocks: number): Promise<Disks> {
  const made = blank.get(blocks) ?? freshDisks(false, SEQS, 2 * blocks * G).then(array => {
    const images = array.initialImages()
    return Object.fromEntries(array.names.map((name, i) => [name, images[i] as MemoryDisk]))
  })
  blank.set(blocks, made)
  return forked(await made)
}

export const forked = (disks: Disks): Disks => Object.fromEntries(Object.entries(disks).map(([name, disk]) => [name, disk.fork()]))

/** Blocks lie apart: neighbours would be one piece, read as soon as one of them is let go. */
export const grainOf = (block: number): number => 2 * block
export const bit = (block: number): number => 1 << block

export function bytesOf(image: readonly number[]): Buffer {
  const bytes = Buffer.alloc(2 * image.length * G)
  for (const [block, value] of image.entries()) bytes.fill(value, grainOf(block) * G, (grainOf(block) + 1) * G)
  return bytes
}

/** @param image by block */
export function same(what: string, found: Buffer | undefined, image: readonly number[] | undefined): void {
  const wanted = image && bytesOf(image)
  if (found && wanted ? found.equals(wanted) : found === wanted) return
  const text = (bytes: Buffer | undefined): string => bytes ? Array.from({ length: bytes.length / G }, (_, grain) => bytes[grain * G]).join(' ') : 'nothing'
  throw new Error(`${what}: ${text(found)}, and should be ${text(wanted)}`)
}

export async function pointContent({ points }: Volume, name: string): Promise<Buffer> {
  const device = points.openPoint(points.byUuid(points.get(name)!.uuid)!)
  try { return await readAll(device) } finally { await device.close() }
}

/** What restores and resyncs keep; somebody may still read one. */
export async function dropUndo({ points }: Volume): Promise<void> {
  for (const { name, labels } of points.list()) if (labels['auto'] === 'undo') await points.delete(name).catch(notThere)
}

/** Between cycles a mirror has one point on each side. */
export function assertTidy(volumes: readonly Volume[]): void {
  for (const { points } of volumes) {
    const left = points.list().filter(({ labels }) => labels['auto'] === 'mirror').map(({ name }) => name)
    if (left.length !== 1) throw new Error(`points of the mirror: ${left.join(', ')}`)
  }
}

/** Of the world that is simulated; anything else is a bug. */
export function notThere(error: unknown): false {
  if (error instanceof NbdeltaError) return false
  throw error
}

const TURNS = 3
/** What can go on without time passing has gone on. */
export async function turns(): Promise<void> {
  for (let turn = 0; turn < TURNS; turn++) await new Promise<void>(resolve => { setImmediate(resolve) })
}
