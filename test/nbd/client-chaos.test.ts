// Connections cut and stalled at random between client and server: no read is ever wrong, no completed write is ever lost, no request
// ever hangs. SEED=n repeats the choices (not the timing); SECONDS=n makes it longer.
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Pending } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { MemoryDisk, seededRandom, type Random } from '../../src/device/testing.js'
import { openNbdClient, type NbdClientDevice } from '../../src/nbd/client-device.js'
import { createServer as createNbdServer } from '../../src/nbd/server.js'
import { delay } from './support/byte-stream.js'
import { MIB } from './support/wire.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1e9)
const SECONDS = Number(process.env['SECONDS'] ?? 2)
const WINDOW = 40_000
const WORKERS = 24

class ChaosProxy {
  readonly #pairs = new Set<readonly [Socket, Socket]>()
  readonly #server
  cuts = 0
  stalls = 0

  constructor(readonly path: string, upstream: string) {
    this.#server = createServer(client => {
      const pair = [client, connect(upstream)] as const
      this.#pairs.add(pair)
      pair.forEach((socket, i) => {
        socket.on('error', () => {})
        socket.on('close', () => { this.#end(pair) })
        socket.pipe(pair[1 - i]!)
      })
    })
  }

  listen(): Promise<void> { return new Promise(resolve => { this.#server.listen(this.path, resolve) }) }

  /** One connection is cut, or falls silent. */
  strike(random: Random): void {
    const pair = [...this.#pairs][random(this.#pairs.size)]
    if (!pair) return
    if (random(4) > 0) {
      this.cuts++
      this.#end(pair)
    } else {
      this.stalls++
      for (const socket of pair) socket.unpipe().pause()
    }
  }

  close(): void {
    for (const pair of this.#pairs) this.#end(pair)
    this.#server.close()
  }

  #end(pair: readonly [Socket, Socket]): void {
    this.#pairs.delete(pair)
    for (const socket of pair) socket.destroy()
  }
}

interface Tally { writes: number, doubts: number, flushes: number, lostFlushes: number }

/** Again as long as a loss is to blame; what else goes wrong is told. */
async function persist(run: () => Pending, tally: Tally): Promise<string> {
  for (;;) {
    try {
      await run()
      return ''
    } catch (error) {
      if (!(error instanceof NbdeltaError)) return String(error)
      if (error.message.includes('may or may not have been executed')) tally.doubts++
      else if (!error.message.includes('was sent 5 times')) return error.message
    }
  }
}

/** One worker writes its own window over and over and reads it back. */
async function work(device: NbdClientDevice, window: number, goesOn: () => boolean, tally: Tally): Promise<string> {
  const offset = window * WINDOW + window
  const into = Buffer.alloc(WINDOW)
  for (let round = 1; goesOn(); round++) {
    const length = 1 + (round * 7919 + window * 104_729) % WINDOW
    const bytes = Buffer.alloc(length, 1 + round % 255)
    const written = await persist(() => device.write(offset, length, bytes, 0), tally)
    if (written) return written
    tally.writes++
    const read = await persist(() => device.read(offset, length, into, 0), tally)
    if (read) return read
    if (!into.subarray(0, length).equals(bytes)) return `window ${window}, round ${round}: what was written does not read back`
    if (round % 8 === 0) {
      const error = await (device.flush() as Promise<void>).then(() => undefined, (error: NbdeltaError) => error)
      if (error !== undefined && error.code !== 'flush-failed') return String(error)
      tally.flushes++
      if (error) tally.lostFlushes++
    }
  }
  return ''
}

for (const [resendWrites, minimum] of [[false, 1], [true, 1], [true, 4096], [false, 512]] as const) {
  t.test(`resendWrites ${resendWrites}, blocks of ${minimum}, seed ${seed}`, async t => {
    const random = seededRandom(seed)
    const dir = mkdtempSync(join(tmpdir(), 'nbdelta-chaos-'))
    const disk = new MemoryDisk(2 * MIB, { blockSizes: { minimum } })
    const server = await createNbdServer({ exports: { '': disk }, listen: [{ path: join(dir, 's') }] })
    const proxy = new ChaosProxy(join(dir, 'p'), join(dir, 's'))
    await proxy.listen()
    const device = await openNbdClient({
      address: { path: proxy.path }, connections: 3, requestMs: 400, connectMs: 400, resendWrites, reconnect: { fromMs: 1, toMs: 10, limitMs: 60_000 },
    })
    t.teardown(async () => {
      await device.close()
      proxy.close()
      await server.close({ deadlineMs: 1000 })
      rmSync(dir, { recursive: true, force: true })
    })
    const until = Date.now() + SECONDS * 1000
    const tally: Tally = { writes: 0, doubts: 0, flushes: 0, lostFlushes: 0 }
    const working = Promise.all(Array.from({ length: WORKERS }, (_, i) => work(device, i, () => Date.now() < until, tally)))
    while (Date.now() < until) {
      await delay(random(60))
      proxy.strike(random)
    }
    const problems = (await working).filter(problem => problem !== '')
    t.strictSame(problems, [])
    if (resendWrites) t.ok(tally.doubts < 5, 'no doubts, unless a write lost its connection five times')
    t.ok(tally.writes > 50 && proxy.cuts > 5, 'something happened')
    t.comment(JSON.stringify({ ...tally, cuts: proxy.cuts, stalls: proxy.stalls, ...device.counters() }))
  })
}
