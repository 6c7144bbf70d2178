// D1: fifty real kill -9 of a loaded server; after each restart every acknowledged write, zero and trim is there.
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking, seedOfRun, seededRandom, until } from '../../scripts/interop/tools.js'
import { Load, audit } from './load.js'
import { StampedWindows } from './stamped-windows.js'
import { WireClient } from './wire-client.js'

const MIB = 2 ** 20
const GIB = 2 ** 30
const GRAIN = 4096
const KILLS = Number(process.env['KILLS'] ?? 50)
const CONNECTIONS = 4
const DEPTH = 8
const NAME = 'victim'
const STATE_ZERO = 2
/** The beginning, across a border of a bookkeeping region (1 GiB), somewhere, and the end of a 4 GiB volume. */
const WINDOWS = [
  { offset: 0, length: 4 * MIB }, { offset: GIB - 2 * MIB, length: 4 * MIB },
  { offset: 2.5 * GIB + 1234 * GRAIN, length: 4 * MIB }, { offset: 4 * GIB - 4 * MIB, length: 4 * MIB },
]

t.setTimeout(300_000)

t.test(`D1: ${KILLS} kills under load`, async t => {
  const seed = seedOfRun()
  const random = seededRandom(seed)
  const server = await InteropServer.start({ name: NAME, size: '4GiB', grain: '4KiB' })
  t.teardown(() => server.close())
  const model = new StampedWindows(WINDOWS)
  const total = { acknowledged: 0, unanswered: 0, duringStart: 0 }
  t.comment(`seed ${seed}`)

  for (let kill = 1; kill <= KILLS; kill++) {
    const clients = await Promise.all(Array.from({ length: CONNECTIONS }, () => WireClient.connect(server.socketPath, NAME)))
    const load = new Load({ model, clients, depth: DEPTH, grainBytes: GRAIN, random })
    const running = load.run()
    await sleep(100 + random() * 500)
    await until('the load to begin', 30_000, () => load.acknowledged >= CONNECTIONS * DEPTH || load.failure !== '')
    if (kill % 10 === 0) { // a pause, so that kills also hit what the server does when it has time: reclaim, checkpoint
      load.stop()
      await running
      await sleep(random() * 4000)
    }
    await server.kill()
    await running
    for (const client of clients) client.destroy()
    total.acknowledged += load.acknowledged
    total.unanswered += load.counts.unanswered
    if (load.failure) return t.fail(`kill ${kill}, seed ${seed}: ${load.failure}`)
    if (random() < 0.3) { // recovery itself may be killed
      server.spawn()
      await sleep(random() * 400)
      await server.kill()
      total.duringStart++
    }
    await server.serve()
    const wrong = await audit(model, server.socketPath, NAME)
    if (wrong) return t.fail(`kill ${kill}, seed ${seed}: ${wrong}`)
    if (kill % 10 === 0) t.pass(`${kill} kills: nothing acknowledged is lost`)
  }
  t.comment(JSON.stringify(total))
  t.ok(total.unanswered > 0, 'the kills did hit requests in flight')
  t.equal((await server.terminate()).code, 0)
  await server.serve()
  t.equal(await audit(model, server.socketPath, NAME), '', 'and again after a clean stop')

  t.test('C9: what block status calls zeros after all this holds no data', { skip: lacking('nbdinfo') }, async t => {
    const extents = JSON.parse((await $`nbdinfo --map --json ${server.uri(NAME)}`).stdout) as { offset: number, length: number, type: number }[]
    t.equal(extents.reduce((sum, extent) => sum + extent.length, 0), 4 * GIB)
    t.strictSame(extents.filter(extent => (extent.type & STATE_ZERO) !== 0 && model.hasData(extent)), [])
  })
})
