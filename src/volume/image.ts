/**
 * Raw images: into a volume and out of it, without touching what is zero on either side.
 *
 *   import   zero runs of the source -> `zero` on the volume (a hole of the volume costs nothing), the rest -> `write`
 *   export   zero runs of the volume -> not written at all (the file is sparse), the rest -> written in place
 *
 * Zeros are known without I/O where a device knows them (`zeroRun`), else seen by looking, in units of UNIT_BYTES.
 * Limits: DEPTH pieces of PIECE_BYTES in flight = 8 MiB, whatever the size of the image.
 *
 * An export to a file is written under a name of its own, flushed, and gets its name last, durably: never half an image.
 */
import { randomUUID } from 'node:crypto'
import { link, rename, stat, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { isZero } from '../../native-free/zero-scan.js'
import type { BlockDevice } from '../device/block-device.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { openFileDisk } from '../device/file-disk.js'
import { syncFolder } from '../store/store-creation.js'
import { readStream, writeStream } from './image-stream.js'

const PIECE_BYTES = 2 ** 20
const DEPTH = 8
/** Runs of zeros shorter than this are written: file systems do not make smaller holes. */
const UNIT_BYTES = 4096

export type ImageSource = string | BlockDevice | Readable

export interface TransferOptions {
  /** Called after each piece, and at the end with both equal. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
  /** Ends the transfer between two pieces; it then rejects with `cancelled`. */
  readonly signal?: AbortSignal
}

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
 * Writes the volume's content to a new file, an existing block device, or a stream. Clients may go on writing: the image
 * is then not of one instant.
 * Errors: exists (without `overwrite`), no-space, cancelled, io and whatever either side reports.
 */
export async function exportImage(
  volume: BlockDevice, target: string | Writable, options: TransferOptions & { readonly overwrite?: boolean } = {},
): Promise<void> {
  if (typeof target !== 'string') return exportStream(volume, target, options)
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
    assertFits(volume.sizeBytes, disk)
    await copy(volume, disk, volume.sizeBytes, false, options)
    await disk.flush()
  } finally {
    await disk.close()
  }
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
  let next = 0
  let doneBytes = 0
  let failure: unknown
  const worker = async (): Promise<void> => {
    const piece = Buffer.alloc(Math.min(PIECE_BYTES, lengthBytes))
    while (next < lengthBytes && failure === undefined) {
      assertActive(signal)
      const offset = next
      const run = source.zeroRun(offset, lengthBytes - offset)
      const bytes = run > 0 ? Math.min(run, PIECE_BYTES) : -run
      next += bytes
      if (run > 0) {
        await source.read(offset, bytes, piece, 0)
        await putPiece(target, offset, piece, bytes, fresh)
      } else if (!fresh) {
        await target.zero(offset, bytes, { allocate: false, fast: false })
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

function assertActive(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new NbdeltaError('cancelled', 'the transfer was cancelled')
}
