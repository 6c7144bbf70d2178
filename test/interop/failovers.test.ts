// D1, C1, C10, S1, S4: kill -9 of a primary whose mirror sends changes as they come, and promotion of the peer: in mode sync nothing that was
// answered is lost, in mode async what is shown is an image that the primary had. And of the peer: no client of the primary notices.
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking, seedOfRun, seededRandom, until } from '../../scripts/interop/tools.js'
import { Ledger, readImage } from './ledger.js'
import { audit, Load } from './load.js'
import { StampedWindows } from './stamped-windows.js'
import { WireClient } from './wire-client.js'

const MIB = 2 ** 20
const KILLS = Number(process.env['KILLS'] ?? 2)
const SIZE = '1GiB'
const WAIT_MS = 60_000
const DEPTH = 4
const LEAST_WRITES = 50
/** Behind the ledger, farther than a giant trim reaches. */
const WINDOWS = [{ offset: 640 * MIB - MIB / 2, length: MIB }, { offset: 1023 * MIB, length: MIB }]

t.setTimeout(120_000 + KILLS * 60_000)

/** Two servers, one of them the peer. */
async function pair(t: { teardown(end: () => Promise<void>): void }) {
  const [near, far] = [await InteropServer.start(), await InteropServer.start()]
  t.teardown(async () => {
    await near.close()
    await far.close()
  })
  const { secret, link } = await far.letPeersIn()
  const mirror = async (name: string, mode: string): Promise<void> => {
    await near.nbdelta('volume', 'create', name, '--size', SIZE)
    await near.nbdelta('mirror', 'create', name, name, `nbdelta+unix:///${name}?socket=${link}`, '--secret', secret, '--interval', '2s', '--mode', mode)
    await inStep(near, name)
  }
  return { near, far, mirror }
}

async function inStep(near: InteropServer, name: string): Promise<void> {
  await until('the mirror to be in step', WAIT_MS, async () =>
    (JSON.parse(await near.nbdelta('mirror', 'show', name, '--json')) as { inStep: boolean }).inStep)
}

/** Clients of a volume. */
async function load(server: InteropServer, name: string, random: () => number) {
  const model = new StampedWindows(WINDOWS)
  const ledger = new Ledger()
  const clients = await Promise.all(Array.from({ length: 3 }, () => WireClient.connect(server.socketPath, name)))
  const [chain, ...others] = clients
  const work = new Load({ model, clients: others, depth: DEPTH, grainBytes: 4096, random })
  const running = Promise.all([work.run(), ledger.run(chain!, random)])
  const stop = async (): Promise<void> => {
    work.stop()
    ledger.stop()
    await running
    for (const client of clients) client.destroy()
  }
  return { model, ledger, work, stop }
}

const skip = lacking('qemu-img')

t.test(`${KILLS} primaries killed, and their peers promoted`, { skip }, async t => {
  const seed = seedOfRun()
  t.comment(`seed ${seed}`)
  const random = seededRandom(seed)
  const { near, far, mirror } = await pair(t)
  const total = { sync: 0, async: 0, writes: 0, ledger: 0 }
  for (let kill = 1; kill <= KILLS; kill++) {
    const mode = kill % 2 === 1 ? 'sync' : 'async'
    const name = `disk-${kill}`
    await mirror(name, mode)
    const { model, ledger, work, stop } = await load(near, name, random)
    await sleep(500 + random() * 4000)
    // However slow the machine is, there is something to lose.
    await until('enough writes', WAIT_MS, async () => ledger.acknowledged >= LEAST_WRITES)
    await near.kill()
    await stop()
    await far.nbdelta('replica', 'promote', name)
    const client = await WireClient.connect(far.socketPath, name)
    const image = await readImage(client)
    client.destroy()
    const wrong = work.failure || (mode === 'sync' ? ledger.settle(image) || await audit(model, far.socketPath, name) : ledger.judge(image))
    if (wrong) return t.fail(`kill ${kill}, ${mode}, seed ${seed}: ${wrong}`)
    total[mode]++
    total.writes += work.acknowledged
    total.ledger += ledger.acknowledged
    await near.serve()
    await t.rejects(near.nbdelta('mirror', 'sync', name), /epoch 1 is refused/, 'who comes back is refused')
    await near.nbdelta('mirror', 'delete', name)
    await near.nbdelta('volume', 'delete', name)
  }
  t.comment(JSON.stringify(total))
  t.ok(total.ledger >= KILLS * LEAST_WRITES, 'and there was something to lose')
})

t.test('a peer is killed again and again: no client fails, and both are equal in the end', { skip }, async t => {
  const seed = seedOfRun()
  t.comment(`seed ${seed}`)
  const random = seededRandom(seed)
  const { near, far, mirror } = await pair(t)
  for (const mode of ['sync', 'async']) {
    await mirror(mode, mode)
    const { model, ledger, work, stop } = await load(near, mode, random)
    for (let kill = 1; kill <= Math.ceil(KILLS / 2); kill++) {
      await sleep(300 + random() * 1500)
      await far.kill()
      await sleep(random() * 3000)
      await far.serve()
      // However slow the target is: answers are held back until it has caught up. In mode async they are not.
      if (mode === 'sync') await inStep(near, mode)
      else await sleep(random() * 3000)
    }
    await stop()
    await inStep(near, mode)
    t.equal(work.failure, '')
    t.equal(work.counts.unanswered, 0)
    await near.nbdelta('mirror', 'sync', mode)
    const { stdout } = await $`qemu-img compare -f raw -F raw ${near.uri(mode)} ${far.uri(mode)}`
    t.match(stdout, /identical/)
    const client = await WireClient.connect(near.socketPath, mode)
    t.equal(ledger.settle(await readImage(client)) || await audit(model, near.socketPath, mode), '')
    client.destroy()
    t.comment(`${mode}: ${work.acknowledged + ledger.acknowledged} acknowledged`)
  }
})
