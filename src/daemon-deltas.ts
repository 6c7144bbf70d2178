/**
 * DaemonDeltas: deltas out of volumes and into them, judged first, then run as jobs.
 *
 * Export: both points are pinned meanwhile. If the server is killed, the next start releases the pin, or it ends by itself.
 * Import: the target must *be* at the delta's base: it has a point of that identity (its uuid, or `origin` among its labels), and
 * since then nothing of it has changed. Where marks say that something may have, content is compared: marks may be too many. In
 * the end the target gets a snapshot with the delta's target as its `origin`: from there the next delta goes on.
 */
import { connect } from 'node:net'
import { finished } from 'node:stream/promises'
import { formatSize, STREAM_SOCKET } from './control/options.js'
import { judgeReadable } from './daemon-points.js'
import { leaving, pinnedBy, pointOf, usable } from './daemon-shared.js'
import { ImportGuard, isMixture, ORIGIN } from './daemon-imports.js'
import { NbdeltaError, applyDelta, exportDelta, freePointName, isBlank, judgeDelta, judgeNewVolume } from './index.js'
import type { Socket } from 'node:net'
import type { ActionRow, Transfer, TransferControl } from './control/admin.js'
import type { DeltasAdmin } from './control/admin-points.js'
import type { Access } from './daemon-shared.js'
import type { Transfers } from './daemon-transfers.js'
import type { DeltaHeader, Logger, PointInfo, Store, StoreVolume } from './index.js'

type ExportOptions = Parameters<DeltasAdmin['prepareExport']>[0]

/** A pin is renewed while its export makes progress, and outlives a killed server by no more than this. */
const PIN_MS = 3_600_000
const PIN_RENEW_MS = 600_000
const EXPORTER = 'delta export '
/** Of the uuid in the name of an imported point. */
const UUID_SHOWN = 8
/** Content is compared in pieces of this size. */
const COMPARE_BYTES = 2 ** 20

/** For a server that starts: no export of a killed one goes on. What cannot be released now expires. Never rejects. */
export async function releaseExports(store: Store, logger: Logger): Promise<void> {
  for (const volume of store.list()) {
    if (volume.problem) continue
    for (const { point: { name }, owner } of pinnedBy(volume, EXPORTER)) {
      await volume.points.unpin(name, owner).catch((err: unknown) => {
        logger.warn({ err, volume: volume.name, point: name }, 'the pin of an export that was killed stays until it expires')
      })
    }
  }
}

export class DaemonDeltas implements DeltasAdmin {
  readonly #access: Access
  readonly #transfers: Transfers
  #lastExport = 0

  constructor(access: Access, transfers: Transfers) {
    this.#access = access
    this.#transfers = transfers
  }

  async prepareExport(options: ExportOptions): Promise<Transfer> {
    const { volume: of, from, to, path, overwrite } = options
    const volume = usable(this.#access, of)
    judgeReadable(pointOf(volume, to))
    const base = from === undefined ? undefined : pointOf(volume, from)
    if (!path.startsWith(STREAM_SOCKET)) await this.#transfers.judgeTarget(path, overwrite)
    const what = base ? `what differs between ${base.name} and ${to}` : `the content of ${to}`
    return { steps: [`write ${what} of ${of}`], run: control => this.#export(volume, options, control) }
  }

  async #export(volume: StoreVolume, options: ExportOptions, { signal, onProgress }: TransferControl): Promise<void> {
    const { to, from, path, compress = 'none', overwrite } = options
    const pins = new Pins(volume, [to, ...from === undefined ? [] : [from]], `${EXPORTER}${++this.#lastExport}`)
    const point = volume.points.open(to)
    try {
      await pins.renew()
      const base = from === undefined ? undefined : pointOf(volume, from)
      const runs = base && runsBetween(volume, base, point.point)
      await toSink(path, signal, sink => exportDelta({
        volume, from: base, to: point, runs, sink, compress, overwrite, signal,
        onProgress: (done, total) => {
          onProgress(done, total)
          pins.renewIfDue()
        },
      }))
    } finally {
      await point.close()
      await pins.release()
    }
  }

  async prepareImport({ volume: of, path }: Parameters<DeltasAdmin['prepareImport']>[0]): Promise<Transfer> {
    const { volume } = await this.#judgePlaces(of, path)
    return {
      steps: [],
      run: control => this.#access.closedToNew(of, () => {
        this.#access.assertUnattached(of, 'import into')
        return this.#import(volume, path, control)
      }),
    }
  }

  async judgeImport({ volume: of, path, signal }: Parameters<DeltasAdmin['judgeImport']>[0]): Promise<ActionRow> {
    const { volume, sizeBytes } = await this.#judgePlaces(of, path)
    const source = path.startsWith(STREAM_SOCKET) ? await connected(path) : path
    try {
      const header = await judgeDelta({
        source, target: volume, signal, resizable: true, identity: header => identityOf(volume, header),
      })
      // What resizing would refuse.
      judgeNewVolume({ name: of, sizeBytes: header.sizeAfter, grainBytes: volume.grainBytes })
      return { target: of, changed: false, dryRun: true, steps: stepsOf(volume, header, sizeBytes) }
    } finally {
      if (typeof source !== 'string') source.destroy()
    }
  }

  /** The volume may be written to, and the file read; how large that is, if it is known. */
  async #judgePlaces(of: string, path: string): Promise<{ volume: StoreVolume, sizeBytes: number | undefined }> {
    const volume = usable(this.#access, of)
    this.#access.assertOwn(of, 'import into')
    this.#access.assertUnattached(of, 'import into')
    if (isMixture(volume)) {
      throw new NbdeltaError('wrong-state', `the content of volume ${of} is a mixture: an import of a delta was cut short`,
        { hint: `nbdelta volume reopen ${of} brings back what it was` })
    }
    return { volume, sizeBytes: path.startsWith(STREAM_SOCKET) ? undefined : await this.#transfers.judgeSource(path) }
  }

  async #import(volume: StoreVolume, path: string, { signal, onProgress }: TransferControl): Promise<void> {
    const { name } = volume
    let guard: ImportGuard | undefined
    const source = path.startsWith(STREAM_SOCKET) ? await connected(path) : path
    try {
      await applyDelta({
        source, target: volume, signal, onProgress,
        identity: header => identityOf(volume, header),
        begin: ({ base, target }) => {
          guard = new ImportGuard(this.#access.store, volume, findOrigin(volume, base), target)
          return guard.begin()
        },
        resize: sizeBytes => this.#access.store.resizeVolume(name, sizeBytes),
        commit: async ({ uuid }) => {
          const name = nameOf(volume, uuid)
          await volume.points.create({ name, kind: 'snapshot', labels: { [ORIGIN]: uuid } })
          await guard!.end()
        },
      })
    } catch (error) {
      if (!guard || !(error instanceof NbdeltaError)) throw error
      throw await explained(error, guard, name)
    } finally {
      if (typeof source !== 'string') source.destroy()
    }
  }
}

function nameOf(volume: StoreVolume, target: string): string {
  return freePointName(volume, `delta-${target.slice(0, UUID_SHOWN)}`)
}

/** What an import would do, in words. `bytes`: of the stream, as it lies in its file. */
function stepsOf(volume: StoreVolume, header: DeltaHeader, bytes: number | undefined): string[] {
  const { base, target, baseNumber, targetNumber, sizeAfter } = header
  const { name, sizeBytes } = volume
  const point = findOrigin(volume, base)
  const from = point ? `bring ${name} from ${point.name}, its base, to` : `fill ${name}, which is empty, with`
  const older = targetNumber < baseNumber ? ', an older one,' : ''
  const size = bytes === undefined ? '' : ` of ${formatSize(bytes)}`
  const resize = sizeAfter === sizeBytes ? []
    : [`${sizeAfter > sizeBytes ? 'grow' : 'shrink'} ${name} from ${formatSize(sizeBytes)} to ${formatSize(sizeAfter)}`]
  return [...resize, `${from} point ${target}${older} by a stream${size}, of which only the header has been read`,
    `make snapshot ${nameOf(volume, target)} of ${name}`]
}

/** The error as it is told, when what was begun is undone. */
async function explained(error: NbdeltaError, guard: ImportGuard, name: string): Promise<NbdeltaError> {
  try {
    const { now, hint } = await guard.undo()
    return leaving(error, now, hint)
  } catch (again) {
    const why = again instanceof Error ? again.message : String(again)
    return leaving(error, `the content of volume ${name} is a mixture now, for ${why}`,
      `nbdelta volume reopen ${name}, when that is over: where the delta started from a snapshot, it brings it back`)
  }
}

/** Grains in which two points of a volume may differ, whichever is the older. */
export function runsBetween({ points }: StoreVolume, a: PointInfo, b: PointInfo) {
  if (a.seq === b.seq) return []
  return a.seq < b.seq ? points.changedRuns(a.name, b.name) : points.changedRuns(b.name, a.name)
}

function findOrigin({ points }: StoreVolume, uuid: string): PointInfo | undefined {
  return points.list().findLast(point => point.uuid === uuid || point.labels[ORIGIN] === uuid)
}

/** Uuid of the point that the volume's content is, as far as the delta cares. Errors: wrong-state. */
export async function identityOf(volume: StoreVolume, { base, target }: { base: string, target: string }): Promise<string> {
  for (const uuid of [target, base]) {
    const point = findOrigin(volume, uuid)
    if (!point) continue
    if (await isUnchanged(volume, point)) return uuid
    if (uuid === base) {
      throw new NbdeltaError('wrong-state', `volume ${volume.name} has changed since ${point.name}, where the delta starts`,
        { hint: `nbdelta snapshot restore ${volume.name} ${point.name}, then import again` })
    }
  }
  if (await isBlank(volume)) return 'empty'
  return volume.points.list().findLast(({ labels }) => labels[ORIGIN] !== undefined)?.labels[ORIGIN] ?? 'content of its own'
}

/** Marks may be too many: what they name is compared with the point's content, where it has one. */
async function isUnchanged(volume: StoreVolume, { name, kind, sizeBytes }: PointInfo): Promise<boolean> {
  const runs = volume.points.changedRuns(name)
  if (volume.sizeBytes !== sizeBytes) return false
  if (runs.length === 0 || kind === 'bookmark') return runs.length === 0
  const point = volume.points.open(name)
  try {
    const [now, then] = [Buffer.allocUnsafe(COMPARE_BYTES), Buffer.allocUnsafe(COMPARE_BYTES)]
    for (const run of runs) {
      const end = Math.min(run.end * volume.grainBytes, sizeBytes)
      for (let offset = run.start * volume.grainBytes; offset < end; offset += COMPARE_BYTES) {
        const length = Math.min(COMPARE_BYTES, end - offset)
        await volume.read(offset, length, now, 0)
        await point.read(offset, length, then, 0)
        if (now.compare(then, 0, length, 0, length) !== 0) return false
      }
    }
    return true
  } finally {
    await point.close()
  }
}

class Pins {
  readonly #volume: StoreVolume
  /** By uuid: names may change meanwhile. */
  readonly #uuids: readonly string[]
  readonly #owner: string
  #renewedAtMs = 0
  #last: Promise<unknown> = Promise.resolve()

  constructor(volume: StoreVolume, names: readonly string[], owner: string) {
    this.#volume = volume
    this.#uuids = names.map(name => pointOf(volume, name).uuid)
    this.#owner = owner
  }

  renew(): Promise<void> {
    this.#renewedAtMs = Date.now()
    const expiresAt = new Date(this.#renewedAtMs + PIN_MS).toISOString()
    return this.#each(name => this.#volume.points.pin(name, { owner: this.#owner, expiresAt }))
  }

  renewIfDue(): void {
    if (Date.now() - this.#renewedAtMs < PIN_RENEW_MS) return
    // One that cannot be renewed lasts until it expires, and the open snapshot cannot be deleted anyway.
    this.#last = this.renew().catch(() => undefined)
  }

  async release(): Promise<void> {
    await this.#last
    await this.#each(name => this.#volume.points.unpin(name, this.#owner))
  }

  async #each(work: (name: string) => Promise<void>): Promise<void> {
    for (const uuid of this.#uuids) {
      const point = this.#volume.points.list().find(one => one.uuid === uuid)
      if (point) await work(point.name)
    }
  }
}

/** Runs `work` with a path, or with the socket that the path stands for; everything is on its way when this resolves. */
async function toSink(path: string, signal: AbortSignal, work: (sink: string | Socket) => Promise<unknown>): Promise<void> {
  if (!path.startsWith(STREAM_SOCKET)) { await work(path); return }
  const socket = await connected(path)
  const abort = (): void => { socket.destroy() }
  signal.addEventListener('abort', abort, { once: true })
  try {
    await work(socket)
    socket.end()
    await finished(socket, { readable: false })
  } finally {
    signal.removeEventListener('abort', abort)
    socket.destroy()
  }
}

function connected(address: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(address.slice(STREAM_SOCKET.length), () => {
      socket.off('error', fail)
      socket.on('error', () => undefined)
      resolve(socket)
    })
    const fail = (error: Error): void => {
      reject(new NbdeltaError('io', `the stream of the command: ${error.message}`, { cause: error }))
    }
    socket.on('error', fail)
  })
}
