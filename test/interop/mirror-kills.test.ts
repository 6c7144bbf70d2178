// S1, S2, S3, D1, C1, C9, C10, C14: real kill -9 of the source's server, or of its peer, while a mirror's cycles run under load. After each restart
// a target that is a volume shows a whole image that the source had, and after a sync both are equal; nothing acknowledged is lost on the source.
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { type ControlClient, connectControl } from '../../src/control/client.js'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking, seedOfRun, seededRandom, until } from '../../scripts/interop/tools.js'
import { type Image, Ledger, readImage } from './ledger.js'
import { audit, Load } from './load.js'
import { StampedWindows } from './stamped-windows.js'
import { WireClient } from './wire-client.js'

const MIB = 2 ** 20
const GRAIN = 4096
const KILLS = Number(process.env['KILLS'] ?? 6)
const NAME = 'disk'
const TARGET = 'copy'
const SIZE = '1GiB'
const CONNECTIONS = 2
const DEPTH = 4
/** Behind the ledger, farther than a giant trim reaches. */
const WINDOWS = [{ offset: 640 * MIB - MIB / 2, length: MIB }, { offset: 1023 * MIB, length: MIB }]
/** Copied first, and never changed. */
const FILL = 'write -P 0x5a 64M 16M'
const WATCH_MS = 100
/** The slower, the more kills cut a cycle short; without any, many pieces are under way at once. */
const RATES = [[], ['--rate', '8MiB/s'], ['--rate', '3MiB/s']]

t.setTimeout(120_000 + KILLS * 40_000)

/** What the load and the commands make of the source, and what the target may show of it. */
class Stage {
  readonly model = new StampedWindows(WINDOWS)
  readonly ledger = new Ledger()
  readonly total = { writes: 0, unanswered: 0, kills: 0, duringStart: 0, inCycle: 0, restores: 0, watched: 0 }
  /** The first thing that must not happen. */
  failure = ''
  readonly source: InteropServer
  readonly random: () => number
  #kept: { readonly name: string, readonly model: StampedWindows, readonly image: Image } | undefined
  #load: Load | undefined
  #clients: WireClient[] = []
  #running: Promise<unknown> = Promise.resolve()
  #control: ControlClient | undefined
  #watching = false

  constructor(source: InteropServer, random: () => number) {
    this.source = source
    this.random = random
  }

  async start(): Promise<void> {
    const { model, random, source, ledger } = this
    this.#clients = await Promise.all(Array.from({ length: CONNECTIONS + 1 }, () => WireClient.connect(source.socketPath, NAME)))
    const [chain, ...clients] = this.#clients
    this.#load = new Load({ model, clients, depth: DEPTH, grainBytes: GRAIN, random })
    const running = [this.#load.run(), ledger.run(chain!, random)]
    this.#running = Promise.all(running).catch((error: unknown) => { this.#fail(error) })
  }

  /** Nothing is in flight any more; or all connections have ended. */
  async stop(): Promise<void> {
    this.#load?.stop()
    this.ledger.stop()
    await this.#running
    for (const client of this.#clients) client.destroy()
    if (!this.#load) return
    this.total.writes += this.#load.acknowledged
    this.total.unanswered += this.#load.counts.unanswered
    this.failure ||= this.#load.failure
    this.#load = undefined
  }

  /** Nothing is in flight. */
  async keep(): Promise<void> {
    const name = `kept-${this.total.kills}`
    await this.call('snapshot.create', { volume: NAME, name })
    this.#kept = { name, model: this.model.copy(), image: this.ledger.copy() }
  }

  /** The source goes back under the running mirror; the load goes on while it copies, and may be killed with it. */
  async restore(): Promise<void> {
    if (!this.#kept) return
    // One that a kill has cut short may go on still, and a second one is refused until it is over.
    const jobs = await this.call('job.list', {}) as { kind: string, state: string }[]
    if (jobs.some(({ kind, state }) => kind === 'restore' && state === 'running')) return
    await this.stop()
    const { name, model, image } = this.#kept
    await this.ledger.become(image, this.call('snapshot.restore', { volume: NAME, name, force: true, wait: false, rate: '4MiB/s' }))
    this.model.become(model)
    this.total.restores++
    await this.start()
  }

  async call(method: string, params: Readonly<Record<string, unknown>>): Promise<unknown> {
    this.#control ??= await connectControl(join(this.source.store, 'control.sock'))
    return this.#control.call(method, params)
  }

  disconnect(): void {
    this.#control?.close()
    this.#control = undefined
  }

  /** A cycle has shipped so much of what it has to, and is not over. */
  async inCycle(part: number): Promise<boolean> {
    const { doneBytes, totalBytes } = await this.call('mirror.show', { name: 'm' }) as { doneBytes: number | null, totalBytes: number | null }
    return totalBytes !== null && totalBytes > 0 && doneBytes! >= part * totalBytes && doneBytes! < totalBytes
  }

  /** What clients that attach to the target now see. */
  async shown(): Promise<Image> {
    const client = await WireClient.connect(this.source.socketPath, TARGET)
    try {
      return await readImage(client)
    } finally {
      client.destroy()
    }
  }

  /** Looks at the target again and again, until the server is gone. */
  async watch(): Promise<void> {
    this.#watching = true
    while (this.#watching && !this.failure) {
      let image: Image
      try { image = await this.shown() } catch (error) {
        if (this.#watching) this.#fail(error)
        return
      }
      const wrong = this.ledger.judge(image)
      if (wrong) this.failure ||= `while it runs: ${wrong}`
      this.total.watched++
      await sleep(WATCH_MS)
    }
  }

  unwatch(): void { this.#watching = false }

  /** D1 on the source. Answers what is wrong, or ''. */
  async judgeSource(): Promise<string> {
    const client = await WireClient.connect(this.source.socketPath, NAME)
    try {
      return this.ledger.settle(await readImage(client)) || await audit(this.model, this.source.socketPath, NAME)
    } finally {
      client.destroy()
    }
  }

  /** A random moment, mostly while a cycle ships. */
  async moment(): Promise<void> {
    await sleep(300 + this.random() * 1700)
    if (this.random() < 0.3) return
    const part = this.random() * 0.9
    await until('a cycle', 30_000, () => this.inCycle(part))
    this.total.inCycle++
  }

  /** kill -9 and start again; now and then twice. */
  async kill(server: InteropServer): Promise<void> {
    this.total.kills++
    this.unwatch()
    if (server === this.source) this.disconnect()
    await server.kill()
    if (this.random() < 0.3) { // what goes on after a start may be killed as well
      server.spawn()
      await sleep(this.random() * 1500)
      await server.kill()
      this.total.duringStart++
    }
    if (server === this.source) await this.stop()
    await server.serve()
  }

  /** After a sync. Answers what is wrong, or ''. */
  async compare(uri: string): Promise<string> {
    await this.source.nbdelta('mirror', 'sync', 'm')
    const { stdout, stderr } = await $({ nothrow: true })`qemu-img compare -f raw -F raw ${this.source.uri(NAME)} ${uri}`
    return stdout.includes('Images are identical') ? '' : `after a sync: ${stdout}${stderr}`
  }

  toString(): string {
    const { acknowledged, judged, different } = this.ledger
    return JSON.stringify({ ...this.total, ledger: acknowledged, judged, different })
  }

  #fail(error: unknown): void { this.failure ||= error instanceof Error ? error.message : String(error) }
}

const skip = lacking('qemu-img', 'qemu-io')

/** No points of a mirror stay when it is gone. */
async function left(source: InteropServer, volume: string): Promise<string[]> {
  const points = JSON.parse(await source.nbdelta('snapshot', 'list', volume, '--json')) as { name: string }[]
  return points.map(({ name }) => name).filter(name => name.startsWith('mirror-'))
}

t.test(`${KILLS} kills of a server whose volume is mirrored to another of its own`, { skip }, async t => {
  const seed = seedOfRun()
  t.comment(`seed ${seed}`)
  const random = seededRandom(seed)
  const source = await InteropServer.start({ name: NAME, size: SIZE, grain: '4KiB' })
  t.teardown(() => source.close())
  const stage = new Stage(source, random)
  t.teardown(() => { stage.disconnect() })
  await $`qemu-io -f raw -c ${FILL} ${source.uri(NAME)}`

  // The first copy is killed: until it is complete there is nothing to see.
  await source.nbdelta('mirror', 'create', 'm', NAME, TARGET, '--interval', '1s', ...RATES[Math.floor(random() * RATES.length)]!)
  await sleep(random() * 1000)
  await source.kill()
  await source.serve()
  const early = await stage.shown().then(image => stage.ledger.judge(image), (error: unknown) => String(error))
  t.match(early, /^$|GO refused/, `right after a kill during the first copy: ${early || 'complete'}`)
  t.equal(await stage.compare(source.uri(TARGET)), '')

  for (let kill = 1; kill <= KILLS; kill++) {
    await stage.keep()
    await stage.start()
    const watching = stage.watch()
    if (random() < 0.4) {
      await sleep(random() * 1000)
      await stage.restore()
    }
    await stage.moment()
    await stage.kill(source)
    await watching
    const shown = await stage.shown()
    const wrong = stage.failure || await stage.judgeSource() || stage.ledger.judge(shown)
      || await stage.compare(source.uri(TARGET)) || stage.ledger.judgeLatest(await stage.shown())
    if (wrong) return t.fail(`kill ${kill}, seed ${seed}: ${wrong}`, { row: await stage.call('mirror.show', { name: 'm' }) })
    if (kill % 6 === 0) t.pass(`${kill} kills: the target was always whole, and never went back`)
  }
  t.comment(stage.toString())
  t.ok(stage.ledger.different > KILLS / 2, 'the target did move on')
  stage.disconnect()
  t.equal((await source.terminate()).code, 0)
  await source.serve()
  t.equal(await stage.judgeSource() || await stage.compare(source.uri(TARGET)), '', 'and again after a clean stop')
  await source.nbdelta('mirror', 'delete', 'm')
  t.same([await left(source, NAME), await left(source, TARGET)], [[], []])
})

t.test(`${KILLS} kills of a server, or of the one that it mirrors to`, { skip }, async t => {
  const seed = seedOfRun()
  t.comment(`seed ${seed}`)
  const random = seededRandom(seed)
  const source = await InteropServer.start({ name: NAME, size: SIZE, grain: '4KiB' })
  t.teardown(() => source.close())
  const peer = await InteropServer.start({ name: TARGET, size: SIZE })
  t.teardown(() => peer.close())
  const stage = new Stage(source, random)
  t.teardown(() => { stage.disconnect() })
  await $`qemu-io -f raw -c ${FILL} ${source.uri(NAME)}`
  const uri = random() < 0.5 ? peer.uri(TARGET) : peer.tcpUri(TARGET)
  await source.nbdelta('mirror', 'create', 'm', NAME, uri, '--interval', '1s', ...RATES[Math.floor(random() * RATES.length)]!)

  for (let kill = 1; kill <= KILLS; kill++) {
    await stage.keep()
    await stage.start()
    if (random() < 0.4) {
      await sleep(random() * 1000)
      await stage.restore()
    }
    await stage.moment()
    const ofPeer = random() < 0.5
    await stage.kill(ofPeer ? peer : source)
    if (ofPeer) await sleep(random() * 2000) // writes go on all the while
    await stage.stop()
    const wrong = stage.failure || await stage.judgeSource() || await stage.compare(uri)
    if (wrong) return t.fail(`kill ${kill}, of the ${ofPeer ? 'peer' : 'source'}, seed ${seed}: ${wrong}`, { row: await stage.call('mirror.show', { name: 'm' }) })
    if (kill % 6 === 0) t.pass(`${kill} kills: alike after every one of them`)
  }
  t.comment(stage.toString())
  stage.disconnect()
  t.same([(await source.terminate()).code, (await peer.terminate()).code], [0, 0])
  await Promise.all([source.serve(), peer.serve()])
  t.equal(await stage.judgeSource() || await stage.compare(uri), '', 'and again after a clean stop')
  await source.nbdelta('mirror', 'delete', 'm')
  t.same(await left(source, NAME), [])
})

// D6, D11, A15: unanswered, the source shows what it had or what the target has, and nothing between; answered, the latter.
t.test('kills during a reverse resync', { skip }, async t => {
  const seed = seedOfRun()
  t.comment(`seed ${seed}`)
  const random = seededRandom(seed)
  const source = await InteropServer.start({ name: NAME, size: '128MiB', grain: '4KiB' })
  t.teardown(() => source.close())
  const [ours, theirs] = [source.uri(NAME), source.uri(TARGET)]
  const alike = async (a: string, b: string): Promise<boolean> =>
    (await $({ nothrow: true })`qemu-img compare -f raw -F raw ${a} ${b}`).stdout.includes('Images are identical')
  await $`qemu-io -f raw -c ${'write -P 1 0 32M'} ${ours}`
  await source.nbdelta('mirror', 'create', 'm', NAME, TARGET, '--interval', '1s')
  await source.nbdelta('mirror', 'sync', 'm')
  const seen = { answered: 0, before: 0, after: 0 }
  for (let round = 1; round <= Math.ceil(KILLS / 2); round++) {
    await source.nbdelta('mirror', 'split', 'm')
    await $`qemu-io -f raw -c ${`write -P ${10 + round} 8M 48M`} -c ${'discard 60M 1M'} ${theirs}`
    await $`qemu-io -f raw -c ${`write -P ${100 + round} 40M 32M`} ${ours}`
    const files = [join(source.dir, 'ours'), join(source.dir, 'theirs')] as const
    for (const [uri, file] of [[ours, files[0]], [theirs, files[1]]] as const) await $`qemu-img convert -f raw -O raw ${uri} ${file}`
    const control = await connectControl(join(source.store, 'control.sock'))
    let isAnswered = false
    const asked = control.call('mirror.resync', { names: ['m'], reverse: true, wait: false }).then(() => { isAnswered = true }, () => undefined)
    if (random() < 0.5) await asked
    await sleep(random() * 150)
    const answered = isAnswered
    await source.kill()
    control.close()
    await source.serve()
    const isAfter = await alike(ours, files[1])
    if (answered) seen.answered++
    seen[isAfter ? 'after' : 'before']++
    t.ok(isAfter || (!answered && await alike(ours, files[0])), `round ${round}: the source is whole${answered ? ', and what was answered' : ''}`)
    const { state } = JSON.parse(await source.nbdelta('mirror', 'show', 'm', '--json')) as { state: string }
    if (state === 'split') await source.nbdelta('mirror', 'resync', 'm', '--reverse')
    await source.nbdelta('mirror', 'sync', 'm')
    t.ok(await alike(ours, files[1]) && await alike(ours, theirs), 'and both are what the target had')
  }
  t.comment(JSON.stringify(seen))
})
