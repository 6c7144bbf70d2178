// A write that was told to a stream, staged, and then refused by the disk of the staging log was never there: a point whose mark the stream has
// reached by then is not declared, since the target has that write and no map knows of it (C1, S2).
import t from 'tap'
import type { Pending } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import { ManualClock, MemoryDisk } from '../../src/device/testing.js'
import type { CycleParts } from '../../src/replication/cycle.js'
import { LogBudget } from '../../src/replication/log-budget.js'
import { DeviceTarget } from '../../src/replication/device-target.js'
import { Mirror } from '../../src/replication/mirror.js'
import { judgeState } from '../../src/replication/mirror-record.js'
import { SourcePoints } from '../../src/replication/source-points.js'
import type { StreamRoots } from '../../src/replication/stream-roots.js'
import { Streaming } from '../../src/replication/streaming.js'
import type { DeclaredPoint, TargetSession } from '../../src/replication/target.js'
import { UUIDS } from '../crash/group-lab.js'
import { freshDisks, GRAIN as G, openOn } from '../volume/lab.js'
import { StagedPoints } from '../volume/point-lab.js'
import { until } from './held.js'
import { disk, fill, shown, URI } from './lab.js'
import { dressed } from './memory-lab.js'

const GRAINS = 16
const SIZE = GRAINS * G
const LOG_BYTES = 8192 + 2 * 256 * 1024

/** Writes wait, and fail in the end. */
class RefusingDisk extends MemoryDisk {
  refuse: (() => void) | undefined
  isHeld = false

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    if (!this.isHeld) return super.write(offset, length, from, at)
    return new Promise((_, reject) => { this.refuse = () => { reject(new NbdeltaError('io', 'the log is gone')) } })
  }
}

class SlowFolders extends StagedPoints<RefusingDisk> {
  making: Promise<void> | undefined
  override async make(...asked: Parameters<StagedPoints['make']>) {
    await this.making
    return super.make(...asked)
  }
}

async function stand(keepSnapshots: number) {
  const log = new RefusingDisk(LOG_BYTES)
  const points = new SlowFolders(log)
  const clock = new ManualClock()
  const volume = dressed(await openOn(await freshDisks({ sizeBytes: SIZE, allData: true }), SIZE, { points, clock }), 'a')
  // What is written over needs a place first, and so is staged.
  await volume.points.create({ name: 'old', kind: 'snapshot', labels: { auto: 'other' } })
  const device = new MemoryDisk(SIZE)
  const declared: DeclaredPoint[] = []
  const session = {
    device, stream: async () => device, suspend: async () => undefined, close: async () => undefined, recall: undefined,
    commit: async (point: DeclaredPoint) => { declared.push(point) },
  } as unknown as TargetSession
  const state = judgeState({
    target: { kind: 'volume', uuid: UUIDS.b }, mode: 'async', intervalSeconds: 60, lagBytes: null, bytesPerSecond: null, keepSnapshots,
    phase: 'paired', paused: false, blank: false, keep: false, cycle: 0, base: null,
  })
  const roots = { follow: () => undefined, begin: () => undefined, note: () => undefined, stop: async () => undefined } as unknown as StreamRoots
  let endedBecause: string | undefined
  const streaming = new Streaming({
    state, clock, roots, logs: new LogBudget(), decide: () => undefined, onSnapshot: () => undefined, onEnd: reason => { endedBecause = reason },
  })
  streaming.collect(volume)
  await streaming.takeOver(session)
  const parts = {
    mirror: 'm', volume, points: new SourcePoints({ uuid: UUIDS.b, name: 'm' }), clock, signal: new AbortController().signal,
    decide: () => undefined, put: async () => undefined, onProgress: () => undefined,
  } as unknown as CycleParts
  /** `make` begins a point, and stays in front of its instant; then a write comes that is told, and refused behind the instant. */
  const toldInVain = async (make: () => Promise<unknown>, meanwhile = (): void => undefined): Promise<void> => {
    let go = (): void => undefined
    points.making = new Promise(resolve => { go = resolve })
    const made = make()
    made.catch(() => undefined)
    for (let turn = 0; turn < 30; turn++) await new Promise<void>(resolve => { setImmediate(resolve) })
    log.isHeld = true
    const write = volume.write(3 * G, G, Buffer.alloc(G, 9), 0) as Promise<void>
    write.catch(() => undefined)
    go()
    const sent = Buffer.alloc(1)
    await until('the target has it', () => {
      device.read(3 * G, 1, sent, 0)
      return sent[0] === 9 && log.refuse !== undefined
    })
    meanwhile()
    for (let turn = 0; turn < 30; turn++) await new Promise<void>(resolve => { setImmediate(resolve) })
    log.refuse!()
    log.isHeld = false
    await t.rejects(write, { code: 'io' })
    await made.catch(() => undefined)
  }
  return { volume, streaming, parts, state, declared, toldInVain, why: () => endedBecause }
}

t.test('a point of the mirror\'s own', async t => {
  const { volume, streaming, parts, state, declared, toldInVain, why } = await stand(0)
  let declaring: Promise<unknown> | undefined
  await toldInVain(() => declaring = streaming.declare(parts, state, false))
  await t.rejects(declaring!, { code: 'unreachable', message: /a change failed/ })
  t.match(why(), /a change failed: the log is gone/)
  t.strictSame(declared, [])
  await volume.close()
})

t.test('a snapshot that the target is to keep', async t => {
  const { volume, streaming, parts, state, declared, toldInVain, why } = await stand(3)
  let declaring: Promise<unknown> | undefined
  await toldInVain(() => volume.points.create({ name: 'mine', kind: 'snapshot' }), () => {
    declaring = streaming.declare(parts, state, false)
    declaring.catch(() => undefined)
  })
  t.match(why(), /a change failed: the log is gone/)
  await t.rejects(declaring!, { code: 'unreachable', message: /a change failed/ })
  t.strictSame(declared, [])
  await volume.close()
})

for (const mode of ['async', 'sync'] as const) t.test(`${mode}: a target that tells nothing of itself is compared, and gets what the source has`, async t => {
  const log = new RefusingDisk(LOG_BYTES)
  const clock = new ManualClock()
  const points = new SlowFolders(log)
  const volume = dressed(await openOn(await freshDisks({ sizeBytes: SIZE, allData: true }), SIZE, { points, clock }), 'a')
  await volume.points.create({ name: 'old', kind: 'snapshot', labels: { auto: 'other' } })
  const wire = disk(GRAINS)
  const state = judgeState({
    target: { kind: 'nbd', uri: URI }, mode, intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, phase: 'copying',
    paused: false, blank: true, keep: false, cycle: 0, base: null,
  })
  const mirror = new Mirror({
    record: { uuid: UUIDS.b, name: 'm', volume: UUIDS.a, state }, target: new DeviceTarget(URI, async () => wire), clock,
    logs: new LogBudget(), logger: silentLogger, source: () => volume, put: async () => undefined,
  })
  mirror.start()
  await mirror.sync()
  await until('it is in step', () => mirror.status().stream?.inStep === true)
  log.isHeld = true
  const write = volume.write(3 * G, G, Buffer.alloc(G, 9), 0) as Promise<void>
  write.catch(() => undefined)
  await until('the target has it', async () => (await shown(wire))[3] === 9 && log.refuse !== undefined)
  log.isHeld = false
  log.refuse!()
  await t.rejects(write, { code: 'io' })
  await mirror.sync()
  t.strictSame((await shown(wire))[3], 0)
  t.ok(mirror.status().decisions.some(({ rule }) => rule === 'compare-all-unlabelled'))
  const { length } = mirror.status().decisions
  await fill(volume, 5, 7)
  await mirror.pause()
  await mirror.resume()
  await mirror.sync()
  t.same(await shown(wire), await shown(volume))
  t.notOk(mirror.status().decisions.slice(length).some(({ rule }) => rule === 'compare-all-unlabelled'), 'once')
  await mirror.stop()
  await volume.close()
})
