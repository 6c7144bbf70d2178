/**
 * Making a store, so that a crash at any moment leaves either no store or a whole one.
 *
 *   DIR/store.lock      who has the store open
 *   DIR/volumes/        one folder a volume
 *   DIR/catalog.log     which volumes there are
 *   DIR/points.log      which points these have
 *   DIR/store.id        format version and uuid; it is what makes DIR a store
 *
 * Order: everything else is made and durable before store.id gets its name, by one rename. Were store.id first, a crash
 * would leave a store without a catalog, and nobody could tell it from one whose catalog was lost. So until store.id is
 * there, whatever else lies there was never used and may be made anew; once it is there, nothing may be missing.
 *
 * points.log came later: a store of version 1 gets it when it is opened, under another name until it is whole. Before
 * anything is written into it store.id is raised to version 2, again by one rename: from then on an older nbdelta, which
 * would overwrite what snapshots need, refuses the store, and points.log may not be missing either.
 */
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { decodeRecord, encodeRecord, RECORD_OWNER_BYTES, type RecordPlace, recordSizeBytes } from '../../native-free/index.js'
import { count } from '../device/count.js'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'
import { openFileDisk } from '../device/file-disk.js'
import { syncFolder } from '../device/sync-folder.js'
import { CATALOG_BYTES, CATALOG_MAGIC } from './catalog.js'
import { formatRecordLog, formatSparseLog } from './open-record-log.js'
import { POINTS_BYTES, POINTS_MAGIC } from './point-table.js'
import { replaceFile, writeDurably } from './whole-file.js'

/** 'NBDS' */
export const STORE_MAGIC = 0x4e424453
/** Raised whenever an older nbdelta could misread anything in the store. */
export const STORE_VERSION = 2
/** What a store has until it first holds a point, so that an older nbdelta goes on opening it. */
const PLAIN_VERSION = 1
const TYPE_IDENTITY = 1
/** More than this is not a store.id. */
const IDENTITY_BYTES_MAX = 4096
/** store.id belongs to nobody: it is what says who is who. */
const NOBODY = Buffer.alloc(RECORD_OWNER_BYTES)

export const FILES = Object.freeze({
  lock: 'store.lock', identity: 'store.id', identityDraft: 'store.id.new', catalog: 'catalog.log', volumes: 'volumes',
  points: 'points.log', pointsDraft: 'points.log.new',
} as const)

const IDENTITY = z.strictObject({ uuid: z.guid(), createdAt: z.iso.datetime() })
export interface StoreIdentity {
  readonly uuid: string
  /** ISO 8601, UTC. */
  readonly createdAt: string
}

export function uuidBytes(uuid: string): Buffer {
  return Buffer.from(uuid.replaceAll('-', ''), 'hex')
}

/** Whether something of this name in the store's folder is the store's own. */
export function isStoreFile(name: string): boolean { return Object.values<string>(FILES).includes(name) }

interface CreationStep {
  readonly name: string
  run(): Promise<unknown>
}

/** What makes a store of an existing, locked folder, step by step; each may be repeated after any crash. */
export function creationSteps(path: string, identity: StoreIdentity): readonly CreationStep[] {
  const draft = join(path, FILES.identityDraft)
  return [
    { name: 'make volumes', run: () => mkdir(join(path, FILES.volumes), { mode: 0o700, recursive: true }) },
    { name: 'remove old catalog', run: () => rm(join(path, FILES.catalog), { force: true }) },
    { name: 'make catalog', run: () => makeCatalog(join(path, FILES.catalog), identity) },
    { name: 'write identity', run: () => writeDurably(draft, encodeIdentity(identity)) },
    { name: 'sync folder', run: () => syncFolder(path) },
    { name: 'sync parent', run: () => syncFolder(dirname(path)) },
    { name: 'name identity', run: () => rename(draft, join(path, FILES.identity)) },
    { name: 'sync identity', run: () => syncFolder(path) },
  ]
}

async function makeCatalog(path: string, { uuid }: StoreIdentity): Promise<void> {
  const disk = await openFileDisk({ path, create: { sizeBytes: CATALOG_BYTES } })
  try {
    await formatRecordLog(disk, { magic: CATALOG_MAGIC, owner: uuidBytes(uuid), name: FILES.catalog })
  } finally {
    await disk.close()
  }
}

/**
 * Refuses to make a store among somebody's files: what an interrupted creation leaves is all that may lie there.
 * Errors: bad-argument, and damaged where volumes lie there without a store.id.
 */
export async function refuseForeignFolder(path: string): Promise<void> {
  const foreign = (await readdir(path)).find(name => !isStoreFile(name))
  if (foreign !== undefined) {
    const hint = 'give an empty folder, or one that is not there yet'
    throw new NbdeltaError('bad-argument', `${path} is not a store, and not empty: it holds '${foreign}'`, { hint })
  }
  const volumes = await readdir(join(path, FILES.volumes)).catch(() => [])
  if (volumes.length > 0) {
    const held = count(volumes.length, 'volume')
    throw new NbdeltaError('damaged', `${path} holds ${held} but no ${FILES.identity}: the file was lost`)
  }
}

/** Makes an empty table of points, durable; what an earlier attempt left is replaced. */
export async function makePoints(path: string, { uuid }: StoreIdentity): Promise<void> {
  const draft = join(path, FILES.pointsDraft)
  await rm(draft, { force: true })
  const disk = await openFileDisk({ path: draft, create: { sizeBytes: POINTS_BYTES } })
  try {
    await formatSparseLog(disk, { magic: POINTS_MAGIC, owner: uuidBytes(uuid), name: FILES.points })
  } finally {
    await disk.close()
  }
  await rename(draft, join(path, FILES.points))
  await syncFolder(path)
}

/**
 * Says durably that the store holds, or is about to hold, what only this version understands. Fails without a trace.
 * Errors: no-space, denied, io.
 */
export async function raiseVersion(path: string, identity: StoreIdentity): Promise<void> {
  const draft = join(path, FILES.identityDraft)
  try {
    await replaceFile(join(path, FILES.identity), draft, encodeIdentity(identity, STORE_VERSION))
  } catch (error) {
    throw asNbdeltaError(error, `raise the version of the store ${path}`)
  }
}

export interface FoundIdentity extends StoreIdentity {
  /** Of the store's format. */
  readonly version: number
}

/** The store's identity; undefined where there is none. Errors: damaged, newer-format, denied, io. */
export async function readIdentity(path: string): Promise<FoundIdentity | undefined> {
  const file = join(path, FILES.identity)
  let bytes: Buffer
  try {
    bytes = await readFile(file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw asNbdeltaError(error, `read ${file}`)
  }
  const found = bytes.length > IDENTITY_BYTES_MAX ? undefined : decodeRecord(placeOf(STORE_VERSION), bytes, 0)
  if (found?.ok === false && found.reason === 'version') {
    const hint = 'use the version of nbdelta that wrote it, or a newer one'
    const message = `${path} is a store of format ${bytes.readUInt16BE(4)}; this version knows formats up to ${STORE_VERSION}`
    throw new NbdeltaError('newer-format', message, { hint })
  }
  if (!found?.ok || found.type !== TYPE_IDENTITY) {
    throw new NbdeltaError('damaged', `${file} does not check: ${found?.ok === false ? found.reason : 'it is something else'}`)
  }
  try {
    return { ...IDENTITY.parse(JSON.parse(found.payload.toString('utf8'))), version: found.version }
  } catch (error) {
    throw new NbdeltaError('damaged', `${file} cannot be understood`, { cause: error })
  }
}

function placeOf(version: number): RecordPlace {
  return { magic: STORE_MAGIC, version, owner: NOBODY, address: 0 }
}

export function encodeIdentity({ uuid, createdAt }: StoreIdentity, version = PLAIN_VERSION): Buffer {
  const payload = Buffer.from(JSON.stringify({ uuid, createdAt }))
  const record = Buffer.alloc(recordSizeBytes(payload.length))
  encodeRecord(placeOf(version), { type: TYPE_IDENTITY, epoch: 0, sequence: 0, durableSequence: 0 }, payload, record, 0)
  return record
}
