/**
 * What points cost beside first overwrites (snapshots.ts): a restore's answer and its copy, reading a deep snapshot, a delta.
 *
 *   restore   of a volume of 1 TiB with 1,000 changes spread over it, until it is answered; of a full volume, until all is
 *             copied (all of it twice: to the undo point, then back), against `dd` of its live file, flushed
 *   deep      the oldest of 100 snapshots, a part of the blocks changed after each, against live, in turn, both read once before
 *   delta     of 1,000 changed blocks of a volume of 16 GiB: bytes of the stream against bytes that changed, and time
 */
import { rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { $ } from '../zx.js'
import type { StoreVolume } from '../../src/index.js'
import { Load } from './clients.js'
import { median } from './results.js'
import type { Figure } from './results.js'
import { EXPORT, nbdeltaCommand, onVolume, serveStore } from './sides.js'
import type { Workbench } from './workbench.js'

const GRAIN = 4096
const MIB = 2 ** 20
const CHANGES = 1000
const COPY_BYTES = 256 * MIB
const DEEP_BYTES = 256 * MIB
const DEEP = 100
/** Blocks changed after each snapshot. */
const DEEP_CHANGES = 200
const PIECE_BYTES = 64 * 1024
/** Long enough to read all of it once in order. */
const DEEP_WARM_S = 2
const ANSWER_LIMIT_MS = 50
const COPY_FLOOR = 0.7
const DEEP_FLOOR = 0.8
/** Bytes of a stream for each byte that changed. */
const DELTA_LIMIT = 1.05

async function spread(volume: StoreVolume, count: number, byte: number, shift = 0): Promise<void> {
  const data = Buffer.alloc(GRAIN, byte)
  const step = Math.floor(volume.sizeBytes / GRAIN / count)
  for (let i = 0; i < count; i++) await volume.write((i * step + shift % step) * GRAIN, GRAIN, data, 0)
}

async function fill(volume: StoreVolume, byte: number): Promise<void> {
  const data = Buffer.alloc(PIECE_BYTES, byte)
  for (let at = 0; at < volume.sizeBytes; at += PIECE_BYTES) await volume.write(at, PIECE_BYTES, data, 0)
  await volume.flush()
}

/** Milliseconds until a restore is answered. */
function answer(path: string): Promise<number> {
  return onVolume(path, { sizeBytes: 2 ** 40 }, async (volume) => {
    await spread(volume, CHANGES, 1)
    await volume.points.create({ name: 'then', kind: 'snapshot' })
    await spread(volume, CHANGES, 2)
    await volume.points.create({ name: 'later', kind: 'bookmark' })
    const start = performance.now()
    const job = await volume.restore({ from: 'then' })
    const took = performance.now() - start
    await job.finished
    return took
  })
}

/**
 * The time of a restore of a whole volume, by that of `dd` of its own live file: what else is in the cache, and in what
 * pieces, would tell more about the kernel.
 */
async function copy(path: string): Promise<number> {
  const backing = `${path}.live`
  const target = `${path}.img`
  writeFileSync(backing, '')
  truncateSync(backing, COPY_BYTES)
  try {
    return await onVolume(path, { backing }, async (volume) => {
      await fill(volume, 1)
      await volume.points.create({ name: 'then', kind: 'snapshot' })
      await fill(volume, 2)
      await volume.points.create({ name: 'later', kind: 'bookmark' })
      const begun = performance.now()
      await $`dd if=${backing} of=${target} bs=1M conv=fdatasync status=none`.quiet()
      const plainMs = performance.now() - begun
      const start = performance.now()
      const job = await volume.restore({ from: 'then' })
      await job.finished
      return (performance.now() - start) / plainMs
    })
  } finally {
    rmSync(backing)
    rmSync(target, { force: true })
  }
}

/** Reads of the oldest of many snapshots, as a part of those of live. */
async function deep(bench: Workbench, path: string, rounds: number, seconds: number): Promise<Record<string, number>> {
  await onVolume(path, { sizeBytes: DEEP_BYTES }, async (volume) => {
    await fill(volume, 1)
    for (let i = 0; i < DEEP; i++) {
      await volume.points.create({ name: `s${i}`, kind: 'snapshot' })
      await spread(volume, DEEP_CHANGES, 2 + i, i * 7919)
    }
  })
  const place = await bench.placeOf('points', path)
  const { server } = await serveStore(place, path)
  const rate = async (exportName: string, mode: string, blockBytes: number): Promise<number> => {
    const options = { mode, blockBytes, depth: 16, seconds, warmSeconds: DEEP_WARM_S }
    const load = await Load.start(bench, { socket: place.socket }, exportName, options)
    try {
      const { operations, seconds: took } = await load.go()
      return operations / took
    } finally { await load.close() }
  }
  try {
    const found: Record<string, number> = {}
    for (const [name, mode, bytes] of [['4 KiB random', 'randread', GRAIN], ['64 KiB in order', 'read', PIECE_BYTES]] as const) {
      const ratios: number[] = []
      for (let i = 0; i < rounds; i++) ratios.push(await rate(`${EXPORT}@s0`, mode, bytes) / await rate(EXPORT, mode, bytes))
      found[name] = median(ratios)
    }
    return found
  } finally { await server.stop() }
}

async function delta(bench: Workbench, path: string): Promise<{ ratio: number, ms: number }> {
  await onVolume(path, { sizeBytes: 2 ** 34 }, async (volume) => {
    await spread(volume, CHANGES, 1)
    await volume.points.create({ name: 'a', kind: 'snapshot' })
    await spread(volume, CHANGES, 2)
    await volume.points.create({ name: 'b', kind: 'snapshot' })
  })
  const place = await bench.placeOf('points', path)
  const { server } = await serveStore(place, path)
  const file = `${path}.delta`
  try {
    const start = performance.now()
    await nbdeltaCommand(path, 'delta', 'export', EXPORT, 'b', file, '--from', 'a')
    return { ratio: statSync(file).size / (CHANGES * GRAIN), ms: performance.now() - start }
  } finally {
    await server.stop()
    rmSync(file, { force: true })
  }
}

interface Extent { readonly rounds: number, readonly seconds: number }

export async function points(bench: Workbench, { rounds, seconds }: Extent): Promise<Figure[]> {
  const { directory } = await bench.placeOf('points', '')
  const path = join(directory, 'store')
  const answers: number[] = []
  const copies: number[] = []
  for (let i = 0; i < rounds; i++) {
    answers.push(await answer(path))
    copies.push(await copy(path))
  }
  const { ratio, ms } = await delta(bench, path)
  const depths = await deep(bench, path, rounds, seconds)
  rmSync(path, { recursive: true, force: true })
  return [
    {
      what: `a restore of 1 TiB with ${CHANGES} changes, until it is answered`, value: median(answers), unit: 'ms',
      limit: ANSWER_LIMIT_MS,
    },
    {
      what: 'bytes a second that a restore of 256 MiB copies, as many of them for the undo point / dd of its live file',
      value: 2 / median(copies), unit: 'of it', floor: COPY_FLOOR,
    },
    { what: 'the same, time of the whole restore / of dd', value: median(copies), unit: 'of it' },
    ...Object.entries(depths).map(([name, value]) => (
      { what: `reads of a snapshot ${DEEP} deep / of live, ${name}, depth 16`, value, unit: 'of it', floor: DEEP_FLOOR })),
    { what: `a delta of ${CHANGES} changed blocks: its bytes / theirs`, value: ratio, unit: 'of it', limit: DELTA_LIMIT },
    { what: 'the same, start of the command to its end', value: ms, unit: 'ms' },
  ]
}
