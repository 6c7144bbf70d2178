/**
 * CRC-32 (IEEE, the one of zip and ethernet), the only door to it. Results are unsigned 32-bit Numbers.
 *
 * Two speeds, one polynomial: `crc32` (buffer-crc32, 0.5 GB/s) for records on disk; `crc32Bulk` (zlib's, 6 GB/s) for
 * data. A test proves that they agree. Where this Node has no zlib.crc32 (before 20.15) the slow one does both.
 *
 * Trap: buffer-crc32 takes a *number* as "that many zero bytes" and refuses a Uint8Array, hence the strict types here.
 */
import table from 'buffer-crc32'
import * as zlib from 'node:zlib'

type Crc32 = (data: Buffer, previous: number) => number
const native = (zlib as unknown as { crc32?: Crc32 }).crc32
const bulk: Crc32 = native ?? ((data, previous) => table.unsigned(data, previous))

/** Checksum of `buf[start, end)`. To go on from an earlier piece, hand in its checksum as `previous`. */
export function crc32(buf: Buffer, start = 0, end = buf.length, previous = 0): number {
  return table.unsigned(buf.subarray(start, end), previous)
}

/** The same checksum, for bulk data. */
export function crc32Bulk(buf: Buffer, start = 0, end = buf.length, previous = 0): number {
  return bulk(buf.subarray(start, end), previous)
}
