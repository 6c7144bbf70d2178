/**
 * What mirrors cost, to a target that is `nbdkit file` on a unix socket:
 *
 *   first copy   of a full volume, from the freeze to the flush, against nbdcopy from the volume to the same server, in turn
 *   wire         a cycle of changed blocks spread over the volume: all bytes on the socket, both ways, counted by a proxy
 *   beside       4 KiB random writes, depth 16, while a cycle runs without limit, against the same without a mirror: one that an
 *                interval of a minute has begun (the default), which gives way, and cycles that run all the time
 *   async, sync  the same while every change crosses as it comes; and, in mode async, how far behind the target is at a steady rate
 *   freeze       the longest of a client's writes, one at a time, while a cycle begins every second, and without any
 *
 * For writes beside a mirror both sides have the same content at first, written in pieces of 4 KiB: workbench.ts says why.
 */
import { closeSync, fsyncSync, openSync, rmSync, writeSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { $ } from '../zx.js'
import { Load } from './clients.js'
import { median } from './results.js'
import type { Figure } from './results.js'
import { EXPORT, nbdeltaCommand, onVolume, serveStore } from './sides.js'
import { ServerProcess } from './server-process.js'
import type { Place } from './sides.js'
import type { Workbench } from './workbench.js'

const MIB = 2 ** 20
const GRAIN = 4096
const SIZE_BYTES = 512 * MIB
const CHANGES = 1000
const COPY_FLOOR = 0.8
/** Of what differs, and what may come on top whatever that is. */
const WIRE_LIMIT = 1.02
const WIRE_FREE_BYTES = 64 * 1024
const BESIDE_FLOOR = 0.6
const ASYNC_FLOOR = 0.7
const SYNC_FLOOR = 0.5
const LAG_LIMIT_SECONDS = 1
/** With sixteen under way about 20,000 writes a second. */
const STEADY_THINK_US = 550
const FREEZE_LIMIT_MS = 10
const THINK_US = 1000
const POLL_MS = 200
const CONTENT = Buffer.alloc(GRAIN, 7)

interface Extent { readonly rounds: number, readonly seconds: number }
interface Mirrored { readonly place: Place, readonly store: string, readonly target: string }

/** A store with one full volume, served, and a target: empty, or with the same content. */
async function mirrored<T>(bench: Workbench, content: 'empty' | 'same', work: (parts: Mirrored) => Promise<T>): Promise<T> {
  const [place, far] = [await bench.placeOf('mirrors', ''), await bench.placeOf('mirror-target', '')]
  const [store, file] = [join(place.directory, 'store'), join(far.directory, 'target.img')]
  await onVolume(store, { sizeBytes: SIZE_BYTES }, async (volume) => {
    for (let at = 0; at < SIZE_BYTES; at += GRAIN) await volume.write(at, GRAIN, CONTENT, 0)
    // Else the freeze of the first copy does it, and not nbdcopy.
    await volume.flush()
  })
  await $`rm -f ${file} && truncate -s ${SIZE_BYTES} ${file}`.quiet()
  if (content === 'same') fill(file)
  const { server: target } = await ServerProcess.start('nbdkit', ['nbdkit', '-f', '-U', far.socket, 'file', file], far.directory,
    { path: far.socket })
  try {
    const { server } = await serveStore(place, store)
    try {
      return await work({ place, store, target: far.socket })
    } finally { await server.stop() }
  } finally {
    await target.stop()
    rmSync(store, { recursive: true, force: true })
    rmSync(file)
  }
}

function fill(path: string): void {
  const file = openSync(path, 'r+')
  for (let at = 0; at < SIZE_BYTES; at += GRAIN) writeSync(file, CONTENT, 0, GRAIN, at)
  fsyncSync(file)
  closeSync(file)
}

const uriOfSocket = (path: string): string => `nbd+unix:///?socket=${path}`

function create(store: string, socket: string, ...options: string[]): Promise<string> {
  return nbdeltaCommand(store, 'mirror', 'create', 'm', EXPORT, uriOfSocket(socket), ...options)
}

interface Shown {
  readonly lastSeconds: number | null
  readonly lastDataBytes: number
  readonly inStep: boolean
  readonly behindSeconds: number
  /** Null: a cycle runs. */
  readonly nextAt: string | null
}

async function show(store: string): Promise<Shown> {
  return JSON.parse(await nbdeltaCommand(store, 'mirror', 'show', 'm', '--json')) as Shown
}

async function elapsed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await work()
  return performance.now() - start
}

/** The rate of a first copy, as a part of nbdcopy's. */
function firstCopy(bench: Workbench): Promise<number> {
  return mirrored(bench, 'empty', async ({ store, target, place }) => {
    await create(store, target, '--interval', '1h')
    let seconds: number | null = null
    while (seconds === null) {
      await sleep(POLL_MS)
      seconds = (await show(store)).lastSeconds
    }
    const source = `nbd+unix:///${EXPORT}?socket=${place.socket}`
    const theirs = await elapsed(() => $`nbdcopy --flush ${source} ${uriOfSocket(target)}`.quiet())
    return theirs / (seconds * 1000)
  })
}

/** Bytes on the socket for each byte that differs, over what is free. */
function wire(bench: Workbench): Promise<number> {
  return mirrored(bench, 'empty', async ({ store, target, place }) => {
    let bytes = 0
    const path = `${target}.proxy`
    const proxy = createServer((near) => {
      const far = connect(target)
      for (const [from, to] of [[near, far], [far, near]] as const) {
        from.on('data', (data) => { bytes += data.length })
        from.pipe(to)
        from.on('error', () => to.destroy())
      }
    }).listen(path)
    await create(store, path, '--interval', '1h')
    await nbdeltaCommand(store, 'mirror', 'sync', 'm')
    const load = await Load.start(bench, { socket: place.socket }, EXPORT, { mode: 'randwrite', depth: 1, seconds: 0.2, thinkUs: 50 })
    await load.go()
    await load.close()
    bytes = 0
    await nbdeltaCommand(store, 'mirror', 'sync', 'm')
    const { lastDataBytes } = await show(store)
    await nbdeltaCommand(store, 'mirror', 'delete', 'm')
    proxy.close()
    if (lastDataBytes < CHANGES * GRAIN / 2) console.log(`  only ${lastDataBytes} bytes changed`)
    return (bytes - WIRE_FREE_BYTES) / lastDataBytes
  })
}

interface Beside { readonly ratio: number, readonly hurriedRatio: number, readonly freezeMs: number, readonly plainMs: number }

/** Writes beside cycles, as a part of the same without; and the longest write while cycles begin, with and without. */
function beside(bench: Workbench, seconds: number): Promise<Beside> {
  return mirrored(bench, 'same', async ({ store, target, place }) => {
    const run = async (options: { depth: number, thinkUs?: number, seconds: number }) => {
      const load = await Load.start(bench, { socket: place.socket }, EXPORT, { mode: 'randwrite', blockBytes: GRAIN, warmSeconds: 0.3, ...options })
      try { return await load.go() } finally { await load.close() }
    }
    const one = { depth: 1, thinkUs: THINK_US, seconds: Math.max(5, seconds) }
    const without = await run({ depth: 16, seconds })
    const calm = await run(one)
    await create(store, target, '--interval', '1s', '--overwrite')
    await nbdeltaCommand(store, 'mirror', 'sync', 'm')
    const frozen = await run(one)
    const during = async (...options: string[]) => {
      await nbdeltaCommand(store, 'mirror', 'delete', 'm')
      await create(store, target, ...options, '--overwrite')
      await nbdeltaCommand(store, 'mirror', 'sync', 'm')
      if (options.length === 0) {
        await run({ depth: 16, seconds: 2 })
        while ((await show(store)).nextAt) await sleep(POLL_MS)
      }
      const { operations, seconds: took } = await run({ depth: 16, seconds: Math.max(3, seconds) })
      return operations / took / (without.operations / without.seconds)
    }
    return {
      ratio: await during(),
      // As soon as anything is behind.
      hurriedRatio: await during('--interval', '1s', '--after', '4096'),
      freezeMs: frozen.maxUs / 1000, plainMs: calm.maxUs / 1000,
    }
  })
}

interface Streamed { readonly async: number, readonly sync: number, readonly steady: number, readonly lagSeconds: number }

/** Writes while every change crosses, as a part of the same without; the largest lag at a steady rate, and that rate. */
function streamed(bench: Workbench, seconds: number): Promise<Streamed> {
  return mirrored(bench, 'same', async ({ store, target, place }) => {
    const run = async (thinkUs: number, during: () => Promise<void> = async () => undefined) => {
      const options = { mode: 'randwrite', blockBytes: GRAIN, depth: 16, warmSeconds: 0.5, seconds: Math.max(3, seconds), thinkUs }
      const load = await Load.start(bench, { socket: place.socket }, EXPORT, options)
      try {
        const [result] = await Promise.all([load.go(), during()])
        return result.operations / result.seconds
      } finally { await load.close() }
    }
    const begin = async (mode: string): Promise<void> => {
      await create(store, target, '--mode', mode, '--interval', '10s', '--overwrite')
      await nbdeltaCommand(store, 'mirror', 'sync', 'm')
      while (!(await show(store)).inStep) await sleep(POLL_MS)
    }
    const without = await run(0)
    await begin('async')
    let lagSeconds = 0
    const steady = await run(STEADY_THINK_US, async () => {
      for (const end = performance.now() + seconds * 1000; performance.now() < end; await sleep(POLL_MS)) {
        const { inStep, behindSeconds } = await show(store)
        lagSeconds = Math.max(lagSeconds, inStep ? behindSeconds : Infinity)
      }
    })
    const async = await run(0)
    await nbdeltaCommand(store, 'mirror', 'delete', 'm')
    await begin('sync')
    const sync = await run(0)
    return { async: async / without, sync: sync / without, steady, lagSeconds }
  })
}

export async function mirrors(bench: Workbench, { rounds, seconds }: Extent): Promise<Figure[]> {
  const [copies, wires, runs] = [[] as number[], [] as number[], [] as Awaited<ReturnType<typeof beside>>[]]
  const streams: Streamed[] = []
  for (let i = 0; i < rounds; i++) {
    copies.push(await firstCopy(bench))
    wires.push(await wire(bench))
    runs.push(await beside(bench, seconds))
    streams.push(await streamed(bench, seconds))
  }
  return [
    { what: 'a first copy of 512 MiB to nbdkit / nbdcopy of the same', value: median(copies), unit: 'of it', floor: COPY_FLOOR },
    {
      what: 'a cycle: bytes on the wire, less 64 KiB / bytes that differ', value: median(wires), unit: 'of it', limit: WIRE_LIMIT,
    },
    {
      what: '4 KiB random writes, depth 16, while a cycle of an interval of 60 s runs without limit / without a mirror',
      value: median(runs.map(({ ratio }) => ratio)), unit: 'of it', floor: BESIDE_FLOOR,
    },
    { what: 'the same, while cycles run all the time', value: median(runs.map(({ hurriedRatio }) => hurriedRatio)), unit: 'of it' },
    {
      what: '4 KiB random writes, depth 16, mode async / without a mirror', value: median(streams.map(one => one.async)), unit: 'of it',
      floor: ASYNC_FLOOR,
    },
    {
      what: '4 KiB random writes, depth 16, mode sync / without a mirror', value: median(streams.map(one => one.sync)), unit: 'of it',
      floor: SYNC_FLOOR,
    },
    {
      what: 'mode async: largest lag at a steady rate', value: median(streams.map(one => one.lagSeconds)), unit: 's', limit: LAG_LIMIT_SECONDS,
    },
    { what: 'that rate', value: median(streams.map(one => one.steady)), unit: '/s' },
    {
      what: 'longest write of one client while a cycle begins every second', value: median(runs.map(({ freezeMs }) => freezeMs)),
      unit: 'ms', limit: FREEZE_LIMIT_MS,
    },
    { what: 'the same without a mirror', value: median(runs.map(({ plainMs }) => plainMs)), unit: 'ms' },
  ]
}
