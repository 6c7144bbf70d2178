/**
 * Opening what a file disk stands on: a regular file or a block device, with errors an operator can act on,
 * and the facts about it: size, kind, whether it rotates.
 */
import { constants } from 'node:fs'
import { type FileHandle, open, readFile, stat, statfs, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { asNbdeltaError, NbdeltaError } from './errors.js'
import { syncFolder } from './sync-folder.js'

export type FileKind = 'file' | 'block'

export interface OpenedFile {
  readonly handle: FileHandle
  readonly kind: FileKind
  readonly sizeBytes: number
  readonly rotational: boolean
  /** The file system lives behind a network or a user's process, so that any call may wait for somebody else. */
  readonly remote: boolean
}

/** Magic numbers of statfs(2): NFS, SMB, CIFS, SMB2, FUSE, Ceph, 9p, AFS, Coda, GFS2, OCFS2, Lustre. */
const REMOTE_FILE_SYSTEMS = new Set([
  0x6969, 0x517b, 0xff534d42, 0xfe534d42, 0x65735546, 0x00c36400, 0x01021997, 0x5346414f, 0x73757245, 0x01161970, 0x7461636f,
  0x0bd00bd0,
])

/** Of a file with `sizeBytes` that is not there yet; its name is durable when this returns. */
export async function createFile(path: string, sizeBytes: number): Promise<OpenedFile> {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 1) {
    throw new NbdeltaError('bad-argument', `${sizeBytes} bytes is no size for a disk`)
  }
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600)
    .catch((error: unknown) => { throw explain(error, path, 'create') })
  try {
    await handle.truncate(sizeBytes)
    await handle.sync()
    await syncFolder(dirname(path))
    const rotational = await isRotational((await handle.stat()).dev)
    return { handle, kind: 'file', sizeBytes, rotational, remote: await isRemote(path) }
  } catch (error) {
    await handle.close()
    await unlink(path).catch(() => undefined)
    throw explain(error, path, 'create')
  }
}

/** Of what is there already. A block device that is to be written is claimed, so that nobody has it mounted. */
export async function openFile(path: string, readOnly: boolean): Promise<OpenedFile> {
  try {
    // Before the open: opening a pipe would wait for its other end.
    const before = await stat(path)
    refuseOther(before, path)
    const claim = before.isBlockDevice() && !readOnly ? constants.O_EXCL : 0
    const handle = await open(path, (readOnly ? constants.O_RDONLY : constants.O_RDWR) | claim)
    try {
      const now = await handle.stat()
      refuseOther(now, path)
      const block = now.isBlockDevice()
      const rotational = await isRotational(block ? now.rdev : now.dev)
      const sizeBytes = block ? await blockDeviceBytes(now.rdev, path) : now.size
      return { handle, kind: block ? 'block' : 'file', sizeBytes, rotational, remote: !block && await isRemote(path) }
    } catch (error) {
      await handle.close()
      throw error
    }
  } catch (error) {
    throw explain(error, path, 'open')
  }
}

interface Kinds { isFile(): boolean, isBlockDevice(): boolean, isDirectory(): boolean }

function refuseOther(stats: Kinds, path: string): void {
  if (stats.isFile() || stats.isBlockDevice()) return
  const what = stats.isDirectory() ? 'a directory' : 'neither a regular file nor a block device'
  throw new NbdeltaError('bad-argument', `${path} is ${what}; give a raw image file or a block device`)
}

/** What the system refused, as what an operator can do something about. */
export function explain(error: unknown, path: string, verb: 'open' | 'create' | 'resize'): NbdeltaError {
  const cause = { cause: error }
  switch ((error as NodeJS.ErrnoException | null)?.code) {
    case 'ENOENT':
      return new NbdeltaError('not-found', `there is no ${verb === 'create' ? `directory for ${path}` : path}`, cause)
    case 'EEXIST': return new NbdeltaError('exists', `${path} is there already`, cause)
    case 'EACCES': case 'EPERM': return new NbdeltaError('denied', `no permission to ${verb} ${path}`, cause)
    case 'EROFS': return new NbdeltaError('denied', `${path} is on a read-only file system`, cause)
    case 'ENOSPC': case 'EDQUOT': return new NbdeltaError('no-space', `no space left to ${verb} ${path}`, cause)
    case 'EFBIG':
      return new NbdeltaError('too-large', `the file system cannot hold so large a file: ${path} (ext4: 16 TiB - 4 KiB)`, cause)
    case 'EBUSY': return new NbdeltaError('busy', `${path} is in use: mounted, or opened by another program`, cause)
    case 'ENXIO': case 'ENOMEDIUM': return new NbdeltaError('io', `there is no device behind ${path}`, cause)
    default: return asNbdeltaError(error, `${verb} ${path}`)
  }
}

/** Linux's encoding of major:minor in st_rdev, as sysfs writes it. */
function deviceNumber(rdev: number): string {
  const bits = BigInt(rdev)
  const major = ((bits >> 8n) & 0xfffn) | ((bits >> 32n) & ~0xfffn)
  const minor = (bits & 0xffn) | ((bits >> 12n) & ~0xffn & 0xffffffffn)
  return `${major}:${minor}`
}

/** Always in units of 512 bytes there, whatever the device's sectors are. */
async function blockDeviceBytes(rdev: number, path: string): Promise<number> {
  const sectors = Number(await readFile(`/sys/dev/block/${deviceNumber(rdev)}/size`, 'latin1'))
  if (!(sectors > 0)) throw new NbdeltaError('io', `${path} has no medium: its size is ${sectors}`)
  return sectors * 512
}

async function isRemote(path: string): Promise<boolean> {
  return REMOTE_FILE_SYSTEMS.has((await statfs(path)).type)
}

/** False when the kernel does not say; a partition's queue is its disk's. */
async function isRotational(dev: number): Promise<boolean> {
  const base = `/sys/dev/block/${deviceNumber(dev)}`
  const says = await readFile(`${base}/queue/rotational`, 'latin1')
    .catch(() => readFile(`${base}/../queue/rotational`, 'latin1')).catch(() => '0')
  return says.trim() === '1'
}
