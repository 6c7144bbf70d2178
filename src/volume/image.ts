/**
 * Raw images: into a volume and out of it, without touching what is zero on either side.
 *
 *   import   zero runs of the source -> `zero` on the volume (a hole of the volume costs nothing), the rest -> `write`
 *   export   zero runs of the volume -> not written at all (the file is sparse), the rest -> written in place
 *
 * Zeros are known where a device tells its allocation (`extents`: a volume its map, a remote export its block status), else seen
 * by looking, in units of UNIT_BYTES. What is to be zero is not sent to a target that tells that it is.
 * Limits: DEPTH pieces of PIECE_BYTES in flight = 8 MiB, and EXTENTS_AT_ONCE extents looked up, whatever the size of the image.
 *
 * A device (an export of another server, for example) is written in place: after a failure it holds a mixture. An export to a
 * file is written under a name of its own, flushed, and gets its name last, durably: never half an image.
 */
import { randomUUID } from 'node:crypto'
import { link, rename, stat, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { isZero } from '../../native-free/zero-scan.js'
import { type BlockDevice, STATE_ZERO } from '../device/block-device.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { openFileDisk } from '../device/file-disk.js'
import { syncFolder } from '../device/sync-folder.js'
import { readStream, writeStream } from './image-stream.js'
import { assertActive, type TransferOptions } from './transfer.js'

const PIECE_BYTES = 2 ** 20
const DEPTH = 8
/** Runs of zeros shorter than this are written: file systems do not make smaller holes. */
const UNIT_BYTES = 4096
/** Zeros asked for at once: a device may have to write them, and what is remote must answer within a deadline. */
const ZERO_PIECE_BYTES = 64 * 2 ** 20
/** Each answer of a remote device costs a round trip, and 16 bytes for each of them. */
const EXTENTS_AT_ONCE = 1024

export type ImageSource = string | BlockDevice | Readable

/**
 * Makes `source` the volume's content: a path, a device or a stream of bytes. What lies behind its end reads as zeros
 * afterwards. Flushed when done; after a failure the volume holds a mixture.
 * Errors: too-large (more bytes than the volume has), not-found, cancelled, io and whatever either side reports.
 */
export async function importImage(
  volume: BlockDevice, source: ImageSource, options: TransferOptions = {},
): Promise<void> {
  if (typeof source === 'string') {
    const file = await openFileDisk({ path: source, readOnly: true })
    try {
      return await importDevice(volume, file, options)
    } finally {
      await file.close()
    }
  }
  return 'sizeBytes' in source ? importDevice(volume, source, options) : importStream(volume, source, options)
}

/**
 * Writes the volume's content to a new file, an existing block device, a device or a stream. Clients may go on writing: the
 * image is then not of one instant. A device stays open, and what it has behind the volume's end stays as it is.
 * Errors: exists (without `overwrite`), read-only, too-large, no-space, cancelled, io and whatever either side reports.
 */
export async function exportImage(
  volume: BlockDevice, target: string | BlockDevice | Writable,
  options: TransferOptions & { readonly overwrite?: boolean } = {},
): Promise<void> {
  if (typeof target !== 'string') {
    return 'sizeBytes' in target ? exportDevice(volume, target, options) : exportStream(volume, target, options)
  }
  const there = await stat(target).catch(() => undefined)
  if (there && !options.overwrite) {
    throw new NbdeltaError('exists', `${target} is there already`, { hint: 'choose another name, or allow it to be overwritten' })
  }
  if (there?.isDirectory()) throw new NbdeltaError('bad-argument', `${target} is a directory; name a file`)
  if (there?.isBlockDevice()) return exportToBlockDevice(volume, target, options)
  await exportToFile(volume, target, options)
}

async function importDevice(volume: BlockDevice, source: BlockDevice, options: TransferOptions): Promise<void> {
  assertFits(source.sizeBytes, volume)
  await copy(source, volume, source.sizeBytes, false, options)
  await finishImport(volume, source.sizeBytes)
}

async function importStream(volume: BlockDevice, source: Readable, { onProgress, signal }: TransferOptions): Promise<void> {
  const total = volume.sizeBytes
  const doneBytes = await readStream(source, PIECE_BYTES, async (piece, offset) => {
    assertActive(signal)
    assertFits(offset + piece.length, volume)
    await putPiece(volume, offset, piece, piece.length, false)
    onProgress?.(offset + piece.length, total)
  })
  await finishImport(volume, doneBytes)
}

async function finishImport(volume: BlockDevice, endBytes: number): Promise<void> {
  const rest = volume.sizeBytes - endBytes
  if (rest > 0) await volume.zero(endBytes, rest, { allocate: false, fast: false })
  await volume.flush()
}

async function exportToFile(
  volume: BlockDevice, path: string, options: TransferOptions & { readonly overwrite?: boolean },
): Promise<void> {
  // What a killed process leaves behind never stands in the way of the next export.
  const partial = `${path}.${randomUUID()}.part`
  const file = await openFileDisk({ path: partial, create: { sizeBytes: volume.sizeBytes } })
  try {
    try {
      await copy(volume, file, volume.sizeBytes, true, options)
      await file.flush()
    } finally {
      await file.close()
    }
    // `link` refuses a name that has come into being meanwhile, `rename` does not.
    if (options.overwrite) await rename(partial, path)
    else await link(partial, path).then(() => unlink(partial))
    await syncFolder(dirname(path))
  } catch (error) {
    await unlink(partial).catch(() => undefined)
    throw asNbdeltaError(error, `export to ${path}`)
  }
}

async function exportToBlockDevice(volume: BlockDevice, path: string, options: TransferOptions): Promise<void> {
  const disk = await openFileDisk({ path })
  try {
    await exportDevice(volume, disk, options)
  } finally {
    await disk.close()
  }
}

async function exportDevice(volume: BlockDevice, target: BlockDevice, options: TransferOptions): Promise<void> {
  if (target.capabilities.readOnly) throw new NbdeltaError('read-only', 'the target of an export cannot be written to')
  assertFits(volume.sizeBytes, target)
  await copy(volume, target, volume.sizeBytes, false, options)
  await target.flush()
}

async function exportStream(volume: BlockDevice, target: Writable, { onProgress, signal }: TransferOptions): Promise<void> {
  const total = volume.sizeBytes
  const piece = Buffer.alloc(PIECE_BYTES)
  for (let offset = 0; offset < total; offset += PIECE_BYTES) {
    assertActive(signal)
    const bytes = Math.min(PIECE_BYTES, total - offset)
    await volume.read(offset, bytes, piece, 0)
    // The stream may hold what it is given for longer than the call: it gets a copy of its own.
    await writeStream(target, Buffer.from(piece.subarray(0, bytes)))
    onProgress?.(offset + bytes, total)
  }
}

/** Copies [0, lengthBytes), several pieces at once. `fresh`: the target reads as zeros already. */
async function copy(
  source: BlockDevice, target: BlockDevice, lengthBytes: number, fresh: boolean, { onProgress, signal }: TransferOptions,
): Promise<void> {
  // A generator takes calls that overlap one after the other, so that the workers share it.
  const runs = runsOf(source, 0, lengthBytes, PIECE_BYTES)
  let doneBytes = 0
  let failure: unknown
  const worker = async (): Promise<void> => {
    const piece = Buffer.alloc(Math.min(PIECE_BYTES, lengthBytes))
    while (failure === undefined) {
      assertActive(signal)
      const { value: run } = await runs.next()
      if (!run) return
      const { offset, bytes, zero } = run
      if (!zero) {
        await source.read(offset, bytes, piece, 0)
        await putPiece(target, offset, piece, bytes, fresh)
      } else if (!fresh) {
        await putZeros(target, offset, bytes)
      }
      doneBytes += bytes
      onProgress?.(doneBytes, lengthBytes)
      // Everything may have completed at once: others want a turn as well.
      await new Promise<void>(resolve => { setImmediate(resolve) })
    }
  }
  const failed = (error: unknown): void => { failure ??= error ?? new Error('no reason') }
  await Promise.all(Array.from({ length: DEPTH }, () => worker().catch(failed)))
  if (failure !== undefined) throw failure
}

interface ImageRun { readonly offset: number, readonly bytes: number, readonly zero: boolean }

/** [from, end) in order: zeros as long as they go on in one answer, the rest in pieces of at most `most` bytes. */
async function* runsOf(device: BlockDevice, from: number, end: number, most: number): AsyncGenerator<ImageRun, undefined> {
  for (let at = from; at < end;) {
    const { lengths, states } = await device.extents(at, end - at, EXTENTS_AT_ONCE)
    for (const [i, length] of lengths.entries()) {
      const zero = (states[i] & STATE_ZERO) !== 0
      for (const stop = at + length; at < stop;) {
        const bytes = zero ? stop - at : Math.min(most, stop - at)
        yield { offset: at, bytes, zero }
        at += bytes
      }
    }
  }
  return undefined
}

/** Makes the range zeros where the target does not tell that it is. */
async function putZeros(target: BlockDevice, offset: number, bytes: number): Promise<void> {
  for await (const run of runsOf(target, offset, offset + bytes, ZERO_PIECE_BYTES)) {
    if (!run.zero) await target.zero(run.offset, run.bytes, { allocate: false, fast: false })
  }
}

/** Writes what is not zero of a piece; what is zero is zeroed, or skipped where the target is fresh. */
async function putPiece(target: BlockDevice, offset: number, piece: Buffer, bytes: number, fresh: boolean): Promise<void> {
  for (let at = 0; at < bytes;) {
    const zero = isZero(piece, at, Math.min(UNIT_BYTES, bytes - at))
    let end = Math.min(bytes, at + UNIT_BYTES)
    while (end < bytes && isZero(piece, end, Math.min(UNIT_BYTES, bytes - end)) === zero) end = Math.min(bytes, end + UNIT_BYTES)
    if (!zero) await target.write(offset + at, end - at, piece, at)
    else if (!fresh) await target.zero(offset + at, end - at, { allocate: false, fast: false })
    at = end
  }
}

function assertFits(bytes: number, target: BlockDevice): void {
  if (bytes <= target.sizeBytes) return
  const hint = 'resize the target first'
  throw new NbdeltaError('too-large', `the image has at least ${bytes} bytes, its target only ${target.sizeBytes}`, { hint })
}
