/**
 * What is measured on nbdelta alone: idle CPU, peak memory under greedy clients, isolation from a slow disk,
 * opening a huge store, trimming and zeroing a huge volume.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { $ } from '../zx.js'
import { Load } from './clients.js'
import type { LoadOptions } from './clients.js'
import { longestWait } from './control-probe.js'
import { creation } from './creation.js'
import { median } from './results.js'
import type { Figure } from './results.js'
import type { ServerProcess } from './server-process.js'
import { mirrors } from './mirrors.js'
import { points } from './points.js'
import { snapshots } from './snapshots.js'
import { EXPORT, nbdeltaCommand, serveStore, sideOf, startSide } from './sides.js'
import type { Place } from './sides.js'
import type { Workbench } from './workbench.js'

const MIB = 1024 * 1024
const LARGEST_REQUEST_BYTES = 32 * MIB
/** 16 TiB less the last MiB: ext4 holds no file of 16 TiB. */
const HUGE_SIZE = '16777215MiB'
const MEMORY_LIMIT_MIB = 200
const STALL_LIMIT_MS = 50
const OPEN_LIMIT_MS = 200
const WHOLE_LIMIT_MS = 100
/** A tick in ten seconds is no CPU. */
const IDLE_LIMIT_MS = 10

export interface SpecialOptions { readonly rounds: number, readonly seconds: number }
type Measurement = (bench: Workbench, options: SpecialOptions) => Promise<Figure[]>
export const SPECIALS: Readonly<Record<string, Measurement>> = { idle, memory, stall, open, trim, snapshots, creation, points, mirrors }

/** A server on the hot file, for as long as `work` takes. */
async function onHotFile<T>(bench: Workbench, work: (place: Place, server: ServerProcess) => Promise<T>): Promise<T> {
  const place = await bench.placeOf('nbdelta', await bench.hot())
  const server = await startSide(sideOf('nbdelta'), place, 'unix')
  try { return await work(place, server) } finally { await server.stop() }
}

async function load(bench: Workbench, place: Place, options: LoadOptions, exportName = EXPORT): Promise<Load> {
  return await Load.start(bench, { socket: place.socket }, exportName, options)
}

async function idle(bench: Workbench): Promise<Figure[]> {
  return await onHotFile(bench, async (place, server) => {
    const attached = await load(bench, place, { mode: 'randread', depth: 16, warmSeconds: 0.5 })
    await sleep(2000)
    const tenSeconds = async (): Promise<number> => {
      const before = server.fineCpuSeconds()
      await sleep(10_000)
      return (server.fineCpuSeconds() - before) * 1000
    }
    // The heap is tidied up once, and what the load has left is checkpointed.
    const first = await tenSeconds()
    const second = await tenSeconds()
    const value = await tenSeconds()
    await attached.close()
    return [
      { what: 'CPU in 10 s, one client attached and silent, from 2 s after a load on', value: first, unit: 'ms' },
      { what: 'the same, from 12 s after it on', value: second, unit: 'ms' },
      { what: 'the same, from 22 s after it on', value, unit: 'ms', limit: IDLE_LIMIT_MS },
    ]
  })
}

async function memory(bench: Workbench, { seconds }: SpecialOptions): Promise<Figure[]> {
  const cases: [string, LoadOptions][] = [
    ['64 connections x 64 random reads of 4 KiB', { mode: 'randread', connections: 64, depth: 64 }],
    ['64 connections x 16 random writes of 64 KiB', { mode: 'randwrite', connections: 64, depth: 16, blockBytes: 64 * 1024 }],
    ['16 clients ask for 16 reads of 32 MiB each and never read',
      { mode: 'deaf', connections: 16, depth: 16, blockBytes: LARGEST_REQUEST_BYTES }],
    ['64 writers of 32 MiB', { mode: 'write', connections: 64, depth: 2, blockBytes: LARGEST_REQUEST_BYTES }],
  ]
  const figures: Figure[] = []
  for (const [what, options] of cases) {
    const value = await onHotFile(bench, async (place, server) => {
      const one = await load(bench, place, { ...options, seconds: Math.max(3, seconds) })
      await one.go()
      const peak = server.peakBytes() / MIB
      await one.close()
      return peak
    })
    figures.push({ what: `peak memory, ${what}`, value, unit: 'MiB', limit: MEMORY_LIMIT_MIB })
  }
  return figures
}

const SLOW_SERVER = ['nbdkit', '--filter=delay', 'memory', '1G', 'delay-read=200ms', 'delay-write=200ms']

/** A raw file whose every read and write takes 200 ms: nbdkit's delay filter, mounted by nbdfuse. */
async function withSlowFile<T>(bench: Workbench, work: (path: string) => Promise<T>): Promise<T> {
  const directory = join(bench.directory, 'sides', 'slow')
  mkdirSync(directory, { recursive: true })
  const path = join(directory, 'disk')
  const fuse = spawn('nbdfuse', [path, '[', ...SLOW_SERVER, ']'], { stdio: 'ignore' })
  try {
    for (let i = 0; i < 500 && !existsSync(path); i++) await sleep(10)
    if (!existsSync(path)) throw new Error('nbdfuse did not mount; it needs /dev/fuse')
    return await work(path)
  } finally {
    await $({ nothrow: true, quiet: true })`umount -l ${directory}`
    if (fuse.exitCode === null) await new Promise(resolve => { fuse.once('close', resolve); fuse.kill('SIGTERM') })
  }
}

interface Waits { readonly clientMs: number, readonly p99Ms: number, readonly controlMs: number }

/** Longest waits of a volume's client and of the control socket, side by side. */
async function waits(bench: Workbench, place: Place, store: string, seconds: number): Promise<Waits> {
  const probe = await load(bench, place, { mode: 'randread', depth: 1, seconds, warmSeconds: 0.2, thinkUs: 300 }, 'fast')
  const [client, controlMs] = await Promise.all([probe.go(), longestWait(join(store, 'control.sock'), seconds)])
  await probe.close()
  return { clientMs: client.maxUs / 1000, p99Ms: client.p99Us / 1000, controlMs }
}

async function stall(bench: Workbench, { rounds, seconds }: SpecialOptions): Promise<Figure[]> {
  const place = await bench.placeOf('nbdelta-stall', await bench.hot())
  const store = join(place.directory, 'store')
  return await withSlowFile(bench, async slowPath => {
    const { server } = await serveStore(place, store)
    const quiet: Waits[] = []
    const beside: Waits[] = []
    try {
      await nbdeltaCommand(store, 'volume', 'create', 'fast', '--backing', place.file)
      await nbdeltaCommand(store, 'volume', 'create', 'slow', '--backing', slowPath)
      for (let round = 0; round < rounds; round++) {
        quiet.push(await waits(bench, place, store, seconds))
        const slow = await Promise.all(['randread', 'randwrite'].map(mode =>
          load(bench, place, { mode, depth: 16, seconds: seconds + 1 }, 'slow')))
        const busy = Promise.all(slow.map(one => one.go()))
        beside.push(await waits(bench, place, store, seconds))
        await busy
        await Promise.all(slow.map(one => one.close()))
      }
    } finally { await server.stop() }
    const of = (what: string, rows: Waits[], key: keyof Waits): Figure =>
      ({ what, value: median(rows.map(row => row[key])), unit: 'ms' })
    const limit = STALL_LIMIT_MS
    return [
      { ...of('longest wait of another volume\'s client beside a disk of 200 ms', beside, 'clientMs'), limit },
      of('the same without load on the slow disk', quiet, 'clientMs'),
      of('99 % of that client\'s requests beside the slow disk', beside, 'p99Ms'),
      { ...of('longest wait of the control socket beside the slow disk', beside, 'controlMs'), limit },
      of('the same without load on the slow disk', quiet, 'controlMs'),
    ]
  })
}

/** A store with one sparse volume of its own, and a running server on it. */
async function withSparseVolume<T>(bench: Workbench, size: string,
  work: (place: Place, store: string) => Promise<T>): Promise<T> {
  const place = await bench.placeOf(`nbdelta-${size}`, 'none')
  const store = join(place.directory, 'store')
  const { server } = await serveStore(place, store)
  try {
    await nbdeltaCommand(store, 'volume', 'create', EXPORT, '--size', size)
    return await work(place, store)
  } finally { await server.stop() }
}

/** Time of `openStore` alone, in a process of its own, printed by it. */
const OPEN_SCRIPT = `
const { openStore } = await import(process.argv[1])
const begin = performance.now()
const store = await openStore({ path: process.argv[2] })
console.log(performance.now() - begin)
await store.close()`

async function open(bench: Workbench, { rounds }: SpecialOptions): Promise<Figure[]> {
  const library = new URL('../../src/index.js', import.meta.url).href
  const { place, store } = await withSparseVolume(bench, HUGE_SIZE, async (place, store) => ({ place, store }))
  const opened = async (): Promise<number> => {
    const times: number[] = []
    for (let round = 0; round < rounds; round++) {
      times.push(Number((await $`${process.execPath} --input-type=module -e ${OPEN_SCRIPT} ${library} ${store}`.quiet()).stdout))
    }
    return median(times)
  }
  const empty = await opened()
  const { server, startMs } = await serveStore(place, store)
  const scattered = await load(bench, place, { mode: 'randwrite', depth: 16, seconds: 1 })
  const { operations } = await scattered.go()
  await scattered.close()
  await server.stop()
  return [
    { what: 'opening a store with an empty 16 TiB volume (openStore)', value: empty, unit: 'ms', limit: OPEN_LIMIT_MS },
    { what: 'the same from the start of the process to the first greeting', value: startMs, unit: 'ms' },
    { what: `openStore, ${operations} blocks written all over it`, value: await opened(), unit: 'ms', limit: OPEN_LIMIT_MS },
  ]
}

async function trim(bench: Workbench, { rounds }: SpecialOptions): Promise<Figure[]> {
  return await withSparseVolume(bench, '1TiB', async (place, store) => {
    const took: Record<'trim' | 'zero', number[]> = { trim: [], zero: [] }
    const back: number[] = []
    for (let round = 0; round < rounds; round++) {
      for (const mode of ['trim', 'zero'] as const) {
        const filled = await load(bench, place, { mode: 'randwrite', depth: 16, blockBytes: 64 * 1024, seconds: 1 })
        await filled.go()
        await filled.close()
        const whole = await load(bench, place, { mode })
        took[mode].push((await whole.go()).seconds * 1000)
        await whole.close()
        back.push(await untilFreed(store))
      }
    }
    return [
      { what: 'TRIM of a whole 1 TiB volume, data spread over it', value: median(took.trim), unit: 'ms', limit: WHOLE_LIMIT_MS },
      { what: 'WRITE_ZEROES of the same', value: median(took.zero), unit: 'ms', limit: WHOLE_LIMIT_MS },
      { what: 'until all of its space is given back', value: median(back), unit: 'ms' },
    ]
  })
}

/** Milliseconds until the volume takes less than a MiB on disk. */
async function untilFreed(store: string): Promise<number> {
  const begin = performance.now()
  for (;;) {
    const { allocatedBytes } = JSON.parse(await nbdeltaCommand(store, 'volume', 'show', EXPORT,
      '--json')) as { allocatedBytes: number }
    if (allocatedBytes < MIB) return performance.now() - begin
    if (performance.now() - begin > 60_000) throw new Error(`a minute after the trim ${allocatedBytes} bytes are still allocated`)
    await sleep(50)
  }
}
