/** Small delta streams for the tests of codec and page, and a slow encoder that is too plain to be wrong. */
import { createHash } from 'node:crypto'
import {
  DeltaDecoder, type DeltaDigest, DeltaEncoder, type DeltaHeader, type DeltaItem, type DeltaPosition, type DeltaRefusal,
} from '../../native-free/index.js'

export const digest: DeltaDigest = (previous, ...pieces) => createHash('sha256').update(Buffer.concat([previous, ...pieces])).digest()

export const HEADER: DeltaHeader = {
  volume: '6e626465-6c74-4130-8000-000000000002',
  base: '6e626465-6c74-4130-8000-000000000011',
  target: '6e626465-6c74-4130-8000-000000000012',
  baseNumber: 4,
  targetNumber: 6,
  sizeBefore: 65536,
  sizeAfter: 2 ** 40 + 512,
  grainBytes: 4096,
  createdAt: '2026-01-02T03:04:05.678Z',
}

export type Step = { readonly offset: number, readonly zeroBytes: number, readonly data: Buffer } | 'mark' | 'end'
export const zeros = (offset: number, zeroBytes: number): Step => ({ offset, zeroBytes, data: Buffer.alloc(0) })
export const data = (offset: number, text: string, zeroBytes = 0): Step => ({ offset, zeroBytes, data: Buffer.from(text) })

/** Something of everything. */
export const STEPS: readonly Step[] = [
  data(4096, 'some data'), zeros(8192, 4096), 'mark', data(2 ** 32, 'zeros before it', 512), zeros(2 ** 40, 512), 'end',
]

/** One buffer a record. */
export function encode(steps: readonly Step[] = STEPS, header = HEADER, after?: DeltaPosition): Buffer[] {
  const encoder = new DeltaEncoder(digest)
  const records = [encoder.begin(header, after)]
  for (const step of steps) {
    if (step === 'mark') records.push(encoder.mark())
    else if (step === 'end') records.push(encoder.end())
    else records.push(Buffer.concat([encoder.extent(step.offset, step.zeroBytes, step.data), step.data]))
  }
  return records
}

export interface Decoded { readonly items: DeltaItem[], readonly refusal: DeltaRefusal | undefined, readonly positions: DeltaPosition[] }

/** Everything that comes out, up to the end or the refusal; data are copied. */
export function decode(chunks: Iterable<Buffer>): Decoded {
  const decoder = new DeltaDecoder(digest)
  const items: DeltaItem[] = []
  const positions: DeltaPosition[] = []
  for (const chunk of chunks) {
    for (const item of decoder.push(chunk)) {
      if (item.kind === 'refused') return { items, refusal: item, positions }
      items.push(item.kind === 'extent' ? { ...item, data: Buffer.from(item.data) } : item)
      positions.push(decoder.position!)
    }
  }
  return { items, refusal: decoder.end(), positions }
}

/** CRC-32, one bit at a time, as the standard writes it. */
function slowCrc(bytes: readonly number[], previous: number): number {
  let crc = ~previous
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) !== 0 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1
  }
  return ~crc >>> 0
}

/** Big endian, `width` bytes. */
function number(value: number, width: number): number[] {
  return width === 0 ? [] : [...number(Math.floor(value / 256), width - 1), value % 256]
}

/** The twin of DeltaEncoder: a stream that is not continued, as the page describes it, field by field. */
export function encodeSlowly(steps: readonly Step[], header: DeltaHeader): Buffer {
  const uuid = (text: string): number[] => text === 'empty' ? number(0, 16) : [...Buffer.from(text.replaceAll('-', ''), 'hex')]
  const stream: number[] = []
  let [sequence, checksum, extents, dataBytes, zeroBytes] = [0, 0, 0, 0, 0]
  let hash: Buffer = Buffer.alloc(32)
  const append = (type: number, payload: readonly number[]): void => {
    const before = [...Buffer.from('NBDD'), ...number(1, 2), ...number(type, 2), ...number(payload.length, 4)]
    const behind = [...number(sequence++, 8), ...payload]
    checksum = slowCrc([...before, ...behind], checksum)
    const record = [...before, ...number(checksum, 4), ...behind]
    hash = createHash('sha256').update(hash).update(Buffer.from(record)).digest()
    stream.push(...record)
  }
  append(1, [
    ...number(0, 4), ...number(header.grainBytes, 4), ...uuid(header.volume), ...uuid(header.base), ...uuid(header.target),
    ...number(header.baseNumber, 8), ...number(header.targetNumber, 8), ...number(header.sizeBefore, 8), ...number(header.sizeAfter, 8),
    ...Buffer.from(header.createdAt),
  ])
  for (const step of steps) {
    if (typeof step === 'string') {
      append(step === 'mark' ? 3 : 4, [...number(extents, 8), ...number(dataBytes, 8), ...number(zeroBytes, 8), ...hash])
      continue
    }
    append(2, [...number(step.offset, 8), ...number(step.zeroBytes, 8), ...step.data])
    extents++
    dataBytes += step.data.length
    zeroBytes += step.zeroBytes
  }
  return Buffer.from(stream)
}
