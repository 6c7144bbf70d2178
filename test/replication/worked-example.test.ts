/**
 * The worked example of the periodic figure (SEEDS C, DESIGN section 2), on real volumes and mirrors: a restore to T0 while a cycle runs.
 * The same example on the model, and what the figure leaves out, is test/models/worked-example.
 *
 * A column of the figure is, here: current, what the running cycle ships (the map between its base and its image); next, the map since that
 * image; COW, what that image no longer reads from live; secondary, the target's own content, and beside it what its clients are shown.
 */
import t from 'tap'
import { seededRandom, type MemoryDisk } from '../../src/device/testing.js'
import type { MemberDisks } from '../crash/group-lab.js'
import { readAll } from '../volume/lab.js'
import { Held, until } from './held.js'
import { G } from './lab.js'
import { freshDisks, Network, Node, type Which } from './memory-lab.js'

const [A, B, C, D] = [0, 1, 2, 3]
const REGIONS = [A, B, C, D]
/** Long enough for what is staged to be moved to its place. */
const REST_MS = 500

interface Row { primary: string, current: string, next: string, cow: string, secondary: string, shown: string }

/** A region's content is its name in hexadecimal: A1 is 0xa1. */
const text = (content: Buffer): string => REGIONS.map(region => content[region * G]!.toString(16).toUpperCase()).join(' ')

class Example {
  readonly held = new Held()
  readonly #network: Network
  readonly #which: Which
  #cycle = Promise.resolve()

  private constructor(readonly node: Node, network: Network, which: Which) {
    this.#network = network
    this.#which = which
  }

  static async open(which: Which): Promise<Example> {
    const array = await freshDisks(false)
    const images = array.initialImages()
    const network = new Network(seededRandom(1))
    const disks = Object.fromEntries(array.names.map((name, i) => [name, images[i] as MemoryDisk]))
    const node = await Node.open(disks as unknown as MemberDisks, network)
    const example = new Example(node, network, which)
    const { held } = example
    held.onSource(node.source)
    if (which === 'local') held.onTarget(node.target)
    const connect = network.connect.bind(network)
    network.connect = () => {
      const wire = connect()
      held.onTarget(wire)
      return wire
    }
    return example
  }

  get mirror() { return this.node.mirrors[this.#which] }

  async write(...regions: string[]): Promise<void> {
    for (const region of regions) {
      const value = Number.parseInt(region, 16)
      await this.node.source.write('ABCD'.indexOf(region[0]!) * G, G, Buffer.alloc(G, value), 0)
    }
    await this.node.clock.advance(REST_MS)
  }

  /** A cycle that has frozen, and sends nothing yet. */
  async freeze(): Promise<void> {
    this.held.hold(REGIONS)
    this.#cycle = this.mirror.sync()
    await until('the cycle sends', () => this.held.arrived > 0)
  }

  async declare(): Promise<void> {
    this.held.letFlush()
    await this.#cycle
  }

  /** They arrive, and are acknowledged. */
  async deliver(...regions: number[]): Promise<void> {
    for (const region of regions) this.held.let(region)
    const wanted = await this.#frozen()
    await until('it has arrived', async () => {
      const there = await this.#secondary()
      return regions.every(region => there[region * G] === wanted[region * G])
    })
  }

  async row(): Promise<Row> {
    const { points } = this.node.source
    const map = (since: string, to?: string): string => {
      const changed = points.changedMap(since, to)
      return REGIONS.map(region => changed.get(region) ? '1' : '0').join('')
    }
    const image = this.#image()
    const base = points.list().find(({ uuid }) => uuid === this.mirror.state.base?.point)!
    const shown = await this.node.shown()
    return {
      primary: text(await readAll(this.node.source)), current: image ? map(base.name, image.name) : 'none',
      next: map(image?.name ?? base.name), cow: image ? await this.#cow() : 'none', secondary: text(await this.#secondary()),
      shown: this.#which === 'remote' ? 'no label' : shown ? text(shown.content) : 'none',
    }
  }

  #image() { return this.node.source.points.list().find(({ name }) => name.endsWith('-image')) }
  async #secondary(): Promise<Buffer> { return readAll(this.#which === 'local' ? this.node.target : this.#network.disk) }

  async #frozen(): Promise<Buffer> {
    const image = this.#image()!
    const point = this.node.source.points.openPoint(this.node.source.points.byUuid(image.uuid)!)
    const content = await readAll(point)
    await point.close()
    return content
  }

  /** Kept by the image itself, or by a newer snapshot in which it looks. */
  async #cow(): Promise<string> {
    const { points } = this.node.source
    const frozen = text(await this.#frozen()).split(' ')
    const { seq } = this.#image()!
    const keepers = points.list().filter(point => point.kind === 'snapshot' && point.seq >= seq).map(({ uuid }) => points.byUuid(uuid)!)
    return REGIONS.map(region => keepers.some(({ owned }) => owned.get(region)) ? frozen[region] : '--').join(' ')
  }
}

for (const which of ['local', 'remote'] as const) {
  t.test(`FIG. 4A, state by state, on a ${which} target`, async t => {
    const example = await Example.open(which)
    const { node, held, mirror } = example
    t.comment('      primary      current  next  COW          secondary    shown')
    const is = async (time: string, what: string, wanted: Row): Promise<void> => {
      const row = await example.row()
      const cells = [time.padEnd(4), row.primary, row.current.padEnd(7), row.next, row.cow.padEnd(11), row.secondary, row.shown.padEnd(11)]
      t.comment(`${cells.join('  ')}  ${what}`)
      t.strictSame(row, { ...wanted, ...which === 'remote' && { shown: 'no label' } }, `${time} ${what}`)
    }
    await example.write('A0', 'B0', 'C0', 'D0')
    await mirror.sync()
    await node.source.points.create({ name: 'T0', kind: 'snapshot' })
    await is('T0', 'the first copy is complete, and a snapshot is taken',
      { primary: 'A0 B0 C0 D0', current: 'none', next: '0000', cow: 'none', secondary: 'A0 B0 C0 D0', shown: 'A0 B0 C0 D0' })

    await example.write('A1', 'B1', 'D1')
    await example.freeze()
    await is('T1', 'A1 B1 D1 are written and frozen',
      { primary: 'A1 B1 C0 D1', current: '1101', next: '0000', cow: '-- -- -- --', secondary: 'A0 B0 C0 D0', shown: 'A0 B0 C0 D0' })
    await example.write('B2')
    await example.deliver(A, B, D)
    await is('T1', 'B2 is written while they are sent',
      { primary: 'A1 B2 C0 D1', current: '1101', next: '0100', cow: '-- B1 -- --', secondary: 'A1 B1 C0 D1', shown: 'A0 B0 C0 D0' })
    await example.declare()
    await is('', 'the cycle has declared its point',
      { primary: 'A1 B2 C0 D1', current: 'none', next: '0100', cow: 'none', secondary: 'A1 B1 C0 D1', shown: 'A1 B1 C0 D1' })

    await example.freeze()
    await example.deliver(B)
    await is('T2', 'next has become current, B2 is there and not declared',
      { primary: 'A1 B2 C0 D1', current: '0100', next: '0000', cow: '-- -- -- --', secondary: 'A1 B2 C0 D1', shown: 'A1 B1 C0 D1' })

    const restored = await node.source.restore({ from: 'T0', bytesPerSecond: G })
    t.equal(text(await readAll(node.source)), 'A0 B0 C0 D0', 'the host sees T0 as soon as the restore is answered')
    t.equal((await example.row()).next, '1101', 'and it is in the next map at once')
    await node.clock.advance(60_000)
    await restored.finished
    await is('T3', 'the volume is restored to T0',
      { primary: 'A0 B0 C0 D0', current: '0100', next: '1101', cow: 'A1 B2 -- D1', secondary: 'A1 B2 C0 D1', shown: 'A1 B1 C0 D1' })
    await example.declare()
    await is('', 'the cycle ends with what was frozen at T2',
      { primary: 'A0 B0 C0 D0', current: 'none', next: '1101', cow: 'none', secondary: 'A1 B2 C0 D1', shown: 'A1 B2 C0 D1' })

    held.letAll()
    await mirror.sync()
    await is('', 'the next cycle brings the restore, and only it',
      { primary: 'A0 B0 C0 D0', current: 'none', next: '0000', cow: 'none', secondary: 'A0 B0 C0 D0', shown: 'A0 B0 C0 D0' })
    t.match(mirror.status().last, { differing: 3 * G, data: 3 * G }, 'A, B and D crossed')
  })
}

t.test('what T2 has yet to send when the restore comes is what was frozen (C3, C4)', async t => {
  const example = await Example.open('local')
  await example.write('A0', 'B0', 'C0', 'D0')
  await example.mirror.sync()
  await example.node.source.points.create({ name: 'T0', kind: 'snapshot' })
  await example.write('A1', 'B2', 'D1')
  await example.freeze()
  await (await example.node.source.restore({ from: 'T0' })).finished
  t.equal(text(await readAll(example.node.source)), 'A0 B0 C0 D0')
  await example.deliver(A, B, D)
  await example.declare()
  t.equal(text((await example.node.shown())!.content), 'A1 B2 C0 D1')
  t.equal((await example.row()).next, '1101')
})
