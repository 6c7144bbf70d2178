/**
 * Hold times of group snapshots (`make groups`): how long requests of a group wait while its points are taken, from the first
 * lock to the last release, with writers on all volumes. On memory disks, and on files of a store in the temporary folder; there also
 * while several mirrors run a cycle of one instant, to targets in memory.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../src/device/clock.js'
import { MemoryDisk } from '../src/device/testing.js'
import { silentLogger } from '../src/device/logger.js'
import { Mirrors, openStore } from '../src/index.js'
import { NewPoint } from '../src/volume/point-creation.js'
import { GroupLab } from '../test/volume/group-lab.js'
import type { BlockDevice } from '../src/device/block-device.js'

/** Volumes of the group, and rounds on files: making and deleting 256 points takes seconds there. */
const COUNTS: readonly (readonly [number, number])[] = [[1, 300], [16, 150], [256, 15]]
/** Mirrors that run a cycle together, and rounds. */
const MIRRORS: readonly (readonly [number, number])[] = [[1, 100], [10, 40], [100, 8]]
/** On memory disks. */
const ROUNDS = 300
const VOLUME_BYTES = 64 * 1024
const WRITERS = 16

/** From the first lock asked for to the last one given back, of each round. */
const holds: number[] = []
let begunMs: number | undefined
let endedMs = 0
const { lock, unlock } = NewPoint.prototype
NewPoint.prototype.lock = function (this: NewPoint) { begunMs ??= performance.now(); return lock.call(this) }
NewPoint.prototype.unlock = function (this: NewPoint) { unlock.call(this); endedMs = performance.now() }

async function measure(
  what: string, rounds: number, volumes: readonly BlockDevice[], snapshot: (name: string) => Promise<unknown>,
): Promise<void> {
  holds.length = 0
  let stop = false
  let slowestMs = 0
  const writers = Array.from({ length: WRITERS }, async (_, index) => {
    const data = Buffer.alloc(4096, index + 1)
    for (let at = index; !stop; at++) {
      const startedMs = performance.now()
      await volumes[at % volumes.length]!.write((at * 4096) % VOLUME_BYTES, 4096, data, 0)
      slowestMs = Math.max(slowestMs, performance.now() - startedMs)
      await new Promise<void>(resolve => { setImmediate(resolve) })
    }
  })
  for (let round = 0; round < rounds; round++) {
    begunMs = undefined
    await snapshot(`s${round}`)
    holds.push(endedMs - begunMs!)
  }
  stop = true
  await Promise.all(writers)
  const sorted = [...holds].sort((a, b) => a - b)
  const at = (share: number): string => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!.toFixed(2)
  process.stdout.write(`${what}, ${volumes.length} volumes, ${rounds} snapshots: hold p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, `
    + `max ${at(1)} ms; slowest write ${slowestMs.toFixed(1)} ms\n`)
}

async function inMemory(count: number): Promise<void> {
  const lab = await GroupLab.open(count, VOLUME_BYTES, { clock: systemClock })
  await measure('memory disks', ROUNDS, lab.volumes, async name => {
    await lab.snapshot(name)
    for (const { points } of lab.volumes) await points.delete(name)
    for (const { points } of lab.volumes) await points.settled()
  })
  await lab.close()
}

/** Bookmarks are taken before, one by one: what counts is the freeze of all images. */
async function ofMirrors(count: number, rounds: number): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'nbdelta-holds-'))
  try {
    const store = await openStore({ path: join(folder, 'store'), create: true })
    const together = store.createPointsTogether.bind(store)
    store.createPointsTogether = wanted => {
      begunMs = undefined
      return together(wanted)
    }
    const mirrors = new Mirrors({
      store, clock: systemClock, logger: silentLogger,
      connect: async () => Object.assign(new MemoryDisk(VOLUME_BYTES), { close: async () => undefined }),
    })
    const names = Array.from({ length: count }, (_, index) => `v${index}`)
    for (const name of names) {
      await store.createVolume({ name, sizeBytes: VOLUME_BYTES })
      const more = { intervalSeconds: 86_400, lagBytes: null, bytesPerSecond: null, overwrite: true }
      await mirrors.create({ name, volume: name, target: `nbd://memory/${name}`, ...more })
      await mirrors.get(name).sync()
    }
    await measure('mirrors', rounds, names.map(name => store.get(name)!), () => mirrors.together(names).sync())
    await mirrors.stop()
    await store.close()
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function onFiles(count: number, rounds: number): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'nbdelta-holds-'))
  try {
    const store = await openStore({ path: join(folder, 'store'), create: true })
    const names = Array.from({ length: count }, (_, index) => `v${index}`)
    for (const name of names) await store.createVolume({ name, sizeBytes: VOLUME_BYTES })
    await store.createGroup('all', names)
    await measure('files', rounds, names.map(name => store.get(name)!), async name => {
      await store.createGroupPoints({ group: 'all', name, kind: 'snapshot' })
      for (const volume of names) await store.get(volume)!.points.delete(name)
      for (const volume of names) await store.get(volume)!.points.settled()
    })
    await store.close()
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

for (const [count] of COUNTS) await inMemory(count)
for (const [count, rounds] of COUNTS) await onFiles(count, rounds)
for (const [count, rounds] of MIRRORS) await ofMirrors(count, rounds)
