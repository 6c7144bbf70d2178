/**
 * What a simulated volume holds, as a short text: hosts fill whole sectors with one byte, so that one character a sector says it all, and
 * two contents are compared, kept and looked up as texts. Its length says how large the volume is.
 */
import type { BlockDevice } from '../../src/device/block-device.js'
import { looks } from './trouble.js'
import { Wrong } from './wrong.js'

export const GRAIN = 4096
export const SECTOR = 512
export const GRAINS = 4
/** Of a new volume, and the largest that one gets. */
export const SIZE = GRAINS * GRAIN
export const SIZE_MAX = 6 * GRAIN
const WORDS = SECTOR / 4

/** One character for each sector. */
export type Image = string

export const ZEROS: Image = '\0'.repeat(SIZE / SECTOR)

const spare: Buffer[] = []

/** Throws Wrong, if a sector is something that nobody ever wrote. */
export async function imageOf(device: Pick<BlockDevice, 'read' | 'sizeBytes'>): Promise<Image> {
  const buffer = spare.pop() ?? Buffer.from(new ArrayBuffer(SIZE_MAX))
  const { sizeBytes } = device
  looks.running++
  try {
    const pending = device.read(0, sizeBytes, buffer, 0)
    if (pending) await pending
  } finally { looks.running-- }
  const words = new Int32Array(buffer.buffer, 0, sizeBytes / 4)
  const codes: number[] = []
  for (let at = 0; at < words.length; at += WORDS) {
    const word = words[at]!
    for (let within = at; within < at + WORDS; within++) if (words[within] !== word) throw new Wrong('a sector is torn')
    codes.push(word & 0xff)
    if (word !== Math.imul(word & 0xff, 0x01010101)) throw new Wrong('a sector is torn')
  }
  spare.push(buffer)
  return String.fromCharCode(...codes)
}

/** Whole sectors. */
export function patched(image: Image, offset: number, length: number, byte: number): Image {
  return image.slice(0, offset / SECTOR) + String.fromCharCode(byte).repeat(length / SECTOR) + image.slice((offset + length) / SECTOR)
}

/** With that part of another one, which may have another size. */
export function partOf(image: Image, other: Image, offset: number, length: number): Image {
  const [from, to] = [offset / SECTOR, Math.min((offset + length) / SECTOR, image.length, other.length)]
  return image.slice(0, from) + other.slice(from, to) + image.slice(to)
}

/** Whatever its size. */
export function isBlank(image: Image): boolean { return !/[^\0]/.test(image) }

/** What is new is zeros. */
export function resized(image: Image, sizeBytes: number): Image {
  return image.slice(0, sizeBytes / SECTOR).padEnd(sizeBytes / SECTOR, '\0')
}

/** Whether each sector is one that one of them has: what a power cut may leave of writes that nobody flushed. */
export function isMixOf(image: Image, images: readonly Image[]): boolean {
  for (let sector = 0; sector < image.length; sector++) {
    if (!images.some(one => one[sector] === image[sector])) return false
  }
  return true
}

export function grainOf(image: Image, grain: number): string {
  return image.slice(grain * GRAIN / SECTOR, (grain + 1) * GRAIN / SECTOR)
}

/** For messages: what is wanted and what was found, a byte a sector. */
export function differenceOf(wanted: Image, found: Image): string {
  const hex = (image: Image): string => Buffer.from(image, 'latin1').toString('hex')
  return `wanted ${hex(wanted)}, found ${hex(found)}`
}
