/**
 * First overwrites right after a snapshot, beside the peers that can do something like it, all over the same full file:
 *
 *   nbdelta       plain (no snapshot), after a snapshot (power-safe), with a bookmark watching, a chain of 1,000
 *   qemu-nbd      a fresh qcow2 overlay over the file; one with a persistent bitmap       (survives a flush)
 *   nbdkit        its cow filter in blocks of 4 KiB                                       (nothing survives)
 *   nbd-server    copyonwrite                                                             (nothing survives)
 *
 * Every round starts each of them anew and writes each block once, in no order, so what is measured is the whole burst. Figures
 * are medians of the rounds, ratios medians of the ratios within a round.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { $ } from '../zx.js'
import type { PointKind, StoreVolume } from '../../src/index.js'
import { Load } from './clients.js'
import { median } from './results.js'
import type { Figure } from './results.js'
import { ServerProcess } from './server-process.js'
import { EXPORT, onVolume, serveStore } from './sides.js'
import type { Place } from './sides.js'
import type { Workbench } from './workbench.js'

const FILE_MIB = 256
const DEPTHS = [16, 64]
const CHAIN = 1000
/** A figure for each of these and depth: operations a second. */
type Rates = Record<string, number>

async function burst(bench: Workbench, place: Place, exportName: string, depth: number, mode = 'firstwrite'): Promise<number> {
  // Reads warm up what the server compiles, and change nothing.
  const warm = await Load.start(bench, { socket: place.socket }, exportName, { mode: 'randread', depth: 16, seconds: 0.3 })
  await warm.go()
  await warm.close()
  const load = await Load.start(bench, { socket: place.socket }, exportName, { mode, depth, seconds: 20 })
  try {
    const { operations, seconds } = await load.go()
    return operations / seconds
  } finally { await load.close() }
}

async function withServer<T>(name: string, command: readonly string[], place: Place, work: () => Promise<T>): Promise<T> {
  const { server } = await ServerProcess.start(name, command, place.directory, { path: place.socket })
  try { return await work() } finally { await server.stop() }
}

type Prepare = (volume: StoreVolume) => Promise<unknown>

/** `prepare` makes the points, before the server starts. */
async function ours(bench: Workbench, place: Place, depth: number, prepare: Prepare): Promise<number> {
  const path = join(place.directory, 'store-cow')
  await onVolume(path, { backing: place.file }, prepare)
  const { server } = await serveStore(place, path)
  try { return await burst(bench, place, EXPORT, depth) } finally { await server.stop() }
}

async function qcow2(bench: Workbench, place: Place, depth: number, bitmap: boolean): Promise<number> {
  const overlay = join(place.directory, 'overlay.qcow2')
  rmSync(overlay, { force: true })
  await $`qemu-img create -q -f qcow2 -b ${place.file} -F raw ${overlay}`.quiet()
  if (bitmap) await $`qemu-img bitmap --add ${overlay} since`.quiet()
  const command = ['qemu-nbd', '-t', '-k', place.socket, '-f', 'qcow2', '--cache=writeback', '-e', '8', overlay]
  return withServer('qemu-nbd', command, place, () => burst(bench, place, '', depth))
}

async function nbdkitCow(bench: Workbench, place: Place, depth: number): Promise<number> {
  const command = ['nbdkit', '-f', '-U', place.socket, '--filter=cow', 'file', place.file, 'cow-block-size=4096']
  return withServer('nbdkit', command, place, () => burst(bench, place, '', depth))
}

async function nbdServerCow(bench: Workbench, place: Place, depth: number): Promise<number> {
  const config = join(place.directory, 'cow.conf')
  writeFileSync(config, `[generic]\nunixsock = ${place.socket}\nlistenaddr = 127.0.0.1\nport = ${place.port}\n`
    + `[${EXPORT}]\nexportname = ${place.file}\ncopyonwrite = true\n`)
  const command = ['nbd-server', '-C', config, '-p', join(place.directory, 'cow.pid')]
  return withServer('nbd-server', command, place, () => burst(bench, place, EXPORT, depth))
}

const point = (kind: PointKind): Prepare => volume => volume.points.create({ name: 'now', kind })

const longChain: Prepare = async volume => {
  for (let i = 0; i < CHAIN; i++) await volume.points.create({ name: `s${i}`, kind: i % 2 ? 'bookmark' : 'snapshot' })
}

/** One after the other; a side that cannot be measured is left out and said. */
async function round(bench: Workbench, file: string, depth: number): Promise<Rates> {
  const rates: Rates = {}
  const sides: [string, (place: Place) => Promise<number>][] = [
    ['plain', place => ours(bench, place, depth, async () => {})],
    ['snapshot', place => ours(bench, place, depth, point('snapshot'))],
    ['bookmark', place => ours(bench, place, depth, point('bookmark'))],
    ['qcow2', place => qcow2(bench, place, depth, false)],
    ['qcow2 with bitmap', place => qcow2(bench, place, depth, true)],
    ['nbdkit cow', place => nbdkitCow(bench, place, depth)],
    ['nbd-server copyonwrite', place => nbdServerCow(bench, place, depth)],
  ]
  for (const [name, measure] of sides) {
    try {
      await bench.burst(FILE_MIB * 2 ** 20)
      rates[name] = await measure(await bench.placeOf('cow', file))
    } catch (error) { console.log(`  ! first overwrites, ${name}: ${(error as Error).message}`) }
  }
  return rates
}

const ratio = (rounds: readonly Rates[], ours: string, theirs: string): number =>
  median(rounds.flatMap(rates => rates[ours] && rates[theirs] ? [rates[ours] / rates[theirs]] : []))

function figuresOf(rounds: readonly Rates[], depth: number): Figure[] {
  const goals: [string, string, number][] = [
    ['snapshot', 'qcow2', 2], ['snapshot', 'qcow2 with bitmap', 2], ['snapshot', 'nbdkit cow', 1],
    ['snapshot', 'nbd-server copyonwrite', 1], ['snapshot', 'plain', depth >= 64 ? 0.4 : 0.6], ['bookmark', 'plain', 0.9],
  ]
  return [
    ...Object.keys(rounds[0] ?? {}).map(name => ({
      what: `first overwrites, depth ${depth}: ${name}`, value: median(rounds.flatMap(rates => rates[name] ?? [])), unit: 'op/s',
    })),
    ...goals.map(([mine, other, floor]) => ({
      what: `the same: ${mine} / ${other}`, value: ratio(rounds, mine, other), unit: 'of it', floor,
    })),
  ]
}

export async function snapshots(bench: Workbench, { rounds }: { readonly rounds: number }): Promise<Figure[]> {
  const file = await bench.burst(FILE_MIB * 2 ** 20)
  const figures: Figure[] = []
  for (const depth of DEPTHS) {
    const all: Rates[] = []
    for (let i = 0; i < rounds; i++) all.push(await round(bench, file, depth))
    figures.push(...figuresOf(all, depth))
  }
  const short: number[] = []
  const long: number[] = []
  for (let i = 0; i < Math.min(rounds, 3); i++) {
    short.push(await ours(bench, await bench.placeOf('cow', file), 16, point('snapshot')))
    long.push(await ours(bench, await bench.placeOf('cow', file), 16, longChain))
  }
  figures.push({
    what: `first overwrites, depth 16, behind a chain of ${CHAIN} / of 1`, value: median(long.map((rate, i) => rate / short[i]!)),
    unit: 'of it', floor: 0.9,
  })
  rmSync(file)
  return figures
}
