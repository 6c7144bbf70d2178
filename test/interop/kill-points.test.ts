// D1, D3, D4, D6: real kill -9 of a server whose volume is written to, snapshotted, restored, cloned and rid of snapshots, all at once: after
// each restart live, snapshots and clones hold what they must, maps mark every difference, and each command has happened whole or not at all.
// `make kill-points` does it with 50 kills: 155 s on a busy machine of two cores, where 43,709 changes were acknowledged and 1,176 left
// unanswered, with 46 snapshots taken, 46 deleted, 11 restores, 15 clones, and 44 commands cut short, 6 of which had happened.
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { seedOfRun, seededRandom, until } from '../../scripts/interop/tools.js'
import { Load } from './load.js'
import { Operator, type Rest } from './operator.js'
import { StampedWindows } from './stamped-windows.js'
import { WireClient } from './wire-client.js'

const MIB = 2 ** 20
const GRAIN = 4096
const KILLS = Number(process.env['KILLS'] ?? 6)
const CONNECTIONS = 3
const DEPTH = 8
const NAME = 'victim'
/** Few and small: they are read again for every snapshot after every kill. Across a border of extents, and the volume's end. */
const WINDOWS = [{ offset: 0, length: MIB }, { offset: 64 * MIB - MIB / 2, length: MIB }, { offset: 512 * MIB - MIB, length: MIB }]

t.setTimeout(60_000 + KILLS * 20_000)

/** Loads one after the other on the same connections, and the operator among them. */
class Round implements Rest {
  readonly #loads: Load[] = []
  readonly #makeLoad: () => Load
  #running: Promise<void> | undefined

  constructor(makeLoad: () => Load) { this.#makeLoad = makeLoad }

  get failure(): string { return this.#loads.find(load => load.failure)?.failure ?? '' }
  get acknowledged(): number { return this.#loads.reduce((sum, load) => sum + load.acknowledged, 0) }
  get unanswered(): number { return this.#loads.reduce((sum, load) => sum + load.counts.unanswered, 0) }

  start(): void {
    const load = this.#makeLoad()
    this.#loads.push(load)
    this.#running = load.run()
  }

  async stop(): Promise<void> {
    this.#loads.at(-1)!.stop()
    await this.#running
  }
}

t.test(`D1, D3, D4, D6: ${KILLS} kills with snapshots, restores, clones and deletions under load`, async t => {
  const seed = seedOfRun()
  t.comment(`seed ${seed}`)
  const random = seededRandom(seed)
  const server = await InteropServer.start({ name: NAME, size: '512MiB', grain: '4KiB' })
  t.teardown(() => server.close())
  const model = new StampedWindows(WINDOWS)
  const operator = new Operator(server, NAME, model, random)
  t.teardown(() => operator.disconnect())
  const total = { acknowledged: 0, unanswered: 0, duringStart: 0 }
  const clean = (): string => { t.comment(JSON.stringify({ ...total, ...operator.counts })); return '' }

  for (let kill = 1; kill <= KILLS; kill++) {
    const clients = await Promise.all(Array.from({ length: CONNECTIONS }, () => WireClient.connect(server.socketPath, NAME)))
    const round = new Round(() => new Load({ model, clients, depth: DEPTH, grainBytes: GRAIN, random }))
    round.start()
    const operating = operator.run(round)
    await sleep(300 + random() * 1500)
    // Half of the kills come a moment after a command was asked.
    if (random() < 0.5) await until('a command', 30_000, () => operator.asking ?? (operator.failure || round.failure))
    await sleep(random() ** 2 * 200)
    await server.kill()
    operator.stop()
    await operating
    await round.stop()
    for (const client of clients) client.destroy()
    total.acknowledged += round.acknowledged
    total.unanswered += round.unanswered
    const failure = round.failure || operator.failure
    if (failure) return t.fail(`kill ${kill}, seed ${seed}: ${failure}; before that: ${operator.history.join(', ')}`)
    if (random() < 0.3) { // recovery, merging and copying may be killed as well
      server.spawn()
      await sleep(random() * 1000)
      await server.kill()
      total.duringStart++
    }
    await server.serve()
    operator.history.push(`kill ${kill}`)
    const wrong = await operator.find() || await operator.audit()
    if (wrong) return t.fail(`kill ${kill}, seed ${seed}: ${wrong}; before that: ${operator.history.join(', ')}`)
    if (kill % 10 === 0) t.pass(`${kill} kills: nothing acknowledged is lost${clean()}`)
  }
  clean()
  t.ok(total.unanswered > 0 && operator.counts.done + operator.counts.undone > 0, 'the kills did hit requests and commands')
  operator.disconnect()
  t.equal((await server.terminate()).code, 0)
  await server.serve()
  t.equal(await operator.find() || await operator.audit(), '', 'and again after a clean stop')

  await operator.clear()
  await until('the folders of deleted snapshots to go', 60_000, async () => (await pointFolders(server)).length === 0)
  t.equal(await operator.audit(), '', 'and live without any snapshot')
  operator.disconnect()
  t.equal((await server.terminate()).code, 0)
  await server.serve()
  t.equal(await operator.find() || await operator.audit(), '', 'also when opened again')
})

async function pointFolders(server: InteropServer): Promise<string[]> {
  const volumes = join(server.store, 'volumes')
  const folders = await Promise.all((await readdir(volumes)).map(uuid => readdir(join(volumes, uuid, 'points')).catch(() => [])))
  return folders.flat()
}
