// Mutated server streams: whatever arrives, the client answers each request with success or a NbdeltaError, soon, and keeps its memory.
// SEED=n repeats a run; SECONDS=n makes it longer.
import { createServer, type Socket } from 'node:net'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { MemoryDisk, seededRandom, type Random } from '../../src/device/testing.js'
import { openNbdClient, type NbdClientDevice } from '../../src/nbd/client-device.js'
import { createServer as createNbdServer } from '../../src/nbd/server.js'
import { connect } from 'node:net'
import { MIB, pattern } from './support/wire.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1e9)
const SECONDS = Number(process.env['SECONDS'] ?? 4)
const STYLES = ['simple', 'structured', 'extended'] as const
/** A run is over long before; a hang is not. */
const RUN_MS = 8000

const dir = mkdtempSync(join(tmpdir(), 'nbdelta-fuzz-'))
const honest = join(dir, 'honest')
const disk = new MemoryDisk(MIB)
void disk.write(0, 300_000, pattern(0, 300_000), 0)
const server = await createNbdServer({ exports: { '': disk }, listen: [{ path: honest }] })
t.teardown(async () => {
  await server.close({ deadlineMs: 1000 })
  rmSync(dir, { recursive: true, force: true })
})

/** What a client does in every run: all kinds of requests, some at once. */
async function exercise(device: NbdClientDevice, random: Random): Promise<void> {
  // The size may have been a lie: then there is nothing to ask for.
  if (device.sizeBytes < MIB) return
  const buffer = Buffer.alloc(64 * 1024, 5)
  const wanted: (() => unknown)[] = [
    () => device.read(random(900_000), 1 + random(65_536), Buffer.alloc(65_536), 0), () => device.extents(0, MIB, 1 + random(40)),
    () => device.write(random(900_000), 1 + random(65_536), buffer, 0), () => device.zero(0, 5000, { allocate: false, fast: random(2) === 0 }),
    () => device.trim(0, 5000), () => device.flush(), () => device.prefetch!(0, 9000),
  ]
  await Promise.all(Array.from({ length: 12 }, async () => {
    try {
      await wanted[random(wanted.length)]!()
    } catch (error) {
      if (!(error instanceof NbdeltaError) || error.code === 'internal') throw error
    }
  }))
}

/** Bytes changed, cut out, doubled, made up; a length field with its top bits set. Mostly one fault a stream, so that it gets far. */
function mutate(bytes: Buffer, random: Random): Buffer {
  const at = random(bytes.length)
  switch (random(6)) {
    case 0: bytes[at]! ^= 1 << random(8); return bytes
    case 1: bytes[at] = random(256); return bytes
    case 2: return Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.min(bytes.length, at + 1 + random(40)))])
    case 3: return Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.max(0, at - random(64)), at), bytes.subarray(at)])
    case 4: return Buffer.concat([bytes.subarray(0, at), Buffer.from(Array.from({ length: random(32) }, () => random(256))), bytes.subarray(at)])
    default: bytes.fill(0xff, at, Math.min(bytes.length, at + 4)); return bytes
  }
}

/** Stands between client and server, and falsifies what the server says in the n-th piece. */
function openLiar(path: string, random: Random): Promise<{ close(): void }> {
  const sockets = new Set<Socket>()
  const proxy = createServer(client => {
    const upstream = connect(honest)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        client.destroy()
        upstream.destroy()
      })
    }
    let pieces = random(14)
    client.pipe(upstream)
    upstream.on('data', piece => {
      const lies = pieces-- <= 0 && random(2) === 0
      client.write(lies ? mutate(Buffer.from(piece), random) : piece)
    })
    upstream.on('end', () => { client.end() })
  })
  return new Promise(resolve => {
    proxy.listen(path, () => resolve({
      close: () => {
        for (const socket of sockets) socket.destroy()
        proxy.close()
      },
    }))
  })
}

t.test(`mutated replies, seed ${seed}`, async t => {
  const until = Date.now() + SECONDS * 1000
  const codes = new Map<string, number>()
  const count = (what: string): unknown => codes.set(what, (codes.get(what) ?? 0) + 1)
  let runs = 0
  let slowest = 0
  const before = process.memoryUsage().rss
  for (let i = 0; Date.now() < until; i++) {
    const random = seededRandom(seed + i)
    const path = join(dir, `liar${i}`)
    const liar = await openLiar(path, random)
    const started = Date.now()
    try {
      const device = await openNbdClient({
        address: { path }, replyStyle: STYLES[random(3)]!, connectMs: 300, requestMs: 300, inFlightBytes: 200_000,
        reconnect: { attempts: 2, fromMs: 1, toMs: 4, limitMs: 2000 }, resendWrites: random(2) === 0,
      })
      device.onState((_, reason) => { count(reason.replace(/[0-9]+/g, 'n').slice(0, 60)) })
      await exercise(device, random)
      await device.close()
    } catch (error) {
      if (!(error instanceof NbdeltaError) || error.code === 'internal') {
        t.fail(`SEED=${seed + i}: ${error instanceof Error ? error.stack : String(error)}`)
        break
      }
      count(error.code)
    } finally {
      liar.close()
    }
    runs++
    slowest = Math.max(slowest, Date.now() - started)
  }
  t.ok(runs > 20, `${runs} runs`)
  t.ok(slowest < RUN_MS, `the slowest took ${slowest} ms`)
  t.ok(process.memoryUsage().rss - before < 256 * MIB, 'memory')
  t.ok([...codes.keys()].some(reason => reason.includes('breaks the NBD protocol')), `the lies were noticed:\n${[...codes].map(([k, v]) => `${v} ${k}`).join('\n')}`)
})
