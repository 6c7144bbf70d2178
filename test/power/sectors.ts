/** A volume by its sectors, as stories and their judges speak of it: each has one value (storm-model.ts). */
import type { BlockDevice } from '../../src/device/block-device.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { SECTOR, valuesOf } from '../volume/storm-model.js'

/** What each sector may be after a power cut, and is now. */
export interface Sectors { readonly sectors: readonly ReadonlySet<number>[], readonly now: readonly number[] }

export async function contentsOf(device: Pick<BlockDevice, 'read' | 'sizeBytes'>): Promise<number[]> {
  const into = Buffer.alloc(device.sizeBytes)
  await device.read(0, into.length, into, 0)
  return valuesOf(into, into.length / SECTOR)
}

/** Of a snapshot. */
export async function contentAt({ points }: StoreVolume, name: string): Promise<number[]> {
  const device = points.open(name)
  try { return await contentsOf(device) } finally { await device.close() }
}

export function exactly(values: readonly number[]): ReadonlySet<number>[] { return values.map(value => new Set([value])) }

/** A flush has come. */
export function durable<T extends Sectors>(side: T): T { return { ...side, sectors: exactly(side.now) } }

/** It was opened anew, and has this. @param isDurable all that is there is: otherwise a later cut may bring back what was there */
export function found<T extends Sectors>(side: T, now: readonly number[], isDurable: boolean): T {
  return { ...side, now, sectors: isDurable ? exactly(now) : side.sectors.map((values, sector) => new Set([...values, now[sector]!])) }
}

/** Undefined: each sector is one that it may be. */
export function problemOfSectors(now: readonly number[], { sectors }: Sectors): string | undefined {
  const wrong = now.findIndex((value, sector) => !sectors[sector]!.has(value))
  return wrong < 0 ? undefined : `sector ${wrong} is ${now[wrong]}, not one of ${[...sectors[wrong]!].join(' ')}`
}

/** Undefined: it is what it froze. */
export async function problemOfSnapshot(volume: StoreVolume, name: string, content: readonly number[]): Promise<string | undefined> {
  const kept = await contentAt(volume, name)
  const lost = content.findIndex((value, sector) => kept[sector] !== value)
  if (lost < 0 && kept.length === content.length) return undefined
  return `${name}: sector ${lost} is ${kept[lost]}, not ${content[lost]}`
}
