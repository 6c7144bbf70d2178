/**
 * What a client feels while snapshots are created: the longest of its writes, on a volume of 1 TiB with blocks changed all over
 * it and a chain of 1,000 points, beside the same without. Nothing of it may go with the size of the volume or the chain.
 *
 *   one client, a write at a time      the longest write while CREATIONS snapshots are made, one after the other
 *   one client, depth 16, at full speed    the same, where every snapshot finds many first overwrites on their way
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { StoreVolume } from '../../src/index.js'
import { connectControl, type ControlClient } from '../../src/control/client.js'
import { Load, type LoadOptions } from './clients.js'
import { median } from './results.js'
import type { Figure } from './results.js'
import { EXPORT, onVolume, serveStore } from './sides.js'
import type { Workbench } from './workbench.js'

const GRAIN = 4096
const SIZE_BYTES = 2 ** 40
/** Blocks that are mapped, evenly: two in each page of every map. */
const BLOCKS = 16_384
const STRIDE_BYTES = SIZE_BYTES / BLOCKS
const CHAIN = 1000
/** Blocks changed after each point of the chain, elsewhere each time. */
const CHANGES = 8
/** Snapshots made in one run. The volume may have 1,024 points, so ROUNDS_MAX rounds of two runs have room. */
const CREATIONS = 6
const ROUNDS_MAX = 2
const PAUSE_MS = 500
const THINK_US = 300
const WARM_S = 0.3
const STALL_LIMIT_MS = 10
/** To reach the control socket. */
const ATTEMPTS_MAX = 20

async function prepare(volume: StoreVolume): Promise<void> {
  const data = Buffer.alloc(GRAIN, 1)
  for (let i = 0; i < BLOCKS; i++) await volume.write(i * STRIDE_BYTES, GRAIN, data, 0)
  for (let i = 0; i < CHAIN; i++) {
    await volume.points.create({ name: `s${i}`, kind: i % 2 ? 'bookmark' : 'snapshot' })
    for (let j = 0; j < CHANGES; j++) await volume.write((i + j * (BLOCKS / CHANGES)) % BLOCKS * STRIDE_BYTES, GRAIN, data, 0)
  }
}

interface Round { readonly beside: number, readonly without: number, readonly creationMs: number }

async function longest(bench: Workbench, socket: string, control: ControlClient, names: Iterator<string>,
  options: Omit<LoadOptions, 'mode'>): Promise<Round> {
  const took: number[] = []
  const run = async (during: () => Promise<void>, seconds: number): Promise<number> => {
    const load = await Load.start(bench, { socket }, EXPORT, {
      mode: 'randwrite', blockBytes: GRAIN, strideBytes: STRIDE_BYTES, warmSeconds: WARM_S, seconds, ...options,
    })
    try {
      const [{ maxUs }] = await Promise.all([load.go(), during()])
      return maxUs / 1000
    } finally { await load.close() }
  }
  const create = async (): Promise<void> => {
    for (let i = 0; i < CREATIONS; i++) {
      const begun = performance.now()
      await control.call('snapshot.create', { volume: EXPORT, name: names.next().value as string })
      took.push(performance.now() - begun)
      await sleep(PAUSE_MS)
    }
  }
  const seconds = CREATIONS * PAUSE_MS / 1000
  const without = await run(async () => undefined, seconds)
  const beside = await run(create, seconds)
  return { beside, without, creationMs: median(took) }
}

/** The control socket is there a moment after the export. */
async function reach(path: string): Promise<ControlClient> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await connectControl(path)
    } catch (error) {
      if (attempt === ATTEMPTS_MAX) throw error
      await sleep(PAUSE_MS)
    }
  }
}

export async function creation(bench: Workbench, { rounds }: { readonly rounds: number }): Promise<Figure[]> {
  const place = await bench.placeOf('creation', '')
  const path = join(place.directory, 'store')
  await onVolume(path, { sizeBytes: SIZE_BYTES }, prepare)
  const { server } = await serveStore(place, path)
  const control = await reach(join(path, 'control.sock'))
  const names = Array.from({ length: 2 * ROUNDS_MAX * CREATIONS }, (_, i) => `n${i}`).values()
  const single: Round[] = []
  const deep: Round[] = []
  try {
    for (let i = 0; i < Math.min(rounds, ROUNDS_MAX); i++) {
      single.push(await longest(bench, place.socket, control, names, { depth: 1, thinkUs: THINK_US }))
      deep.push(await longest(bench, place.socket, control, names, { depth: 16 }))
    }
  } finally {
    control.close()
    await server.stop()
    rmSync(path, { recursive: true, force: true })
  }
  const figure = (what: string, list: readonly Round[], key: keyof Round): Figure =>
    ({ what, value: median(list.map(round => round[key])), unit: 'ms' })
  const where = `1 TiB, ${BLOCKS} blocks, ${CHAIN} points`
  return [
    { ...figure(`longest write of one client while snapshots are created, ${where}`, single, 'beside'), limit: STALL_LIMIT_MS },
    figure('the same without', single, 'without'),
    figure('one such creation', single, 'creationMs'),
    figure('longest write at depth 16, at full speed, while snapshots are created', deep, 'beside'),
    figure('the same without', deep, 'without'),
  ]
}
