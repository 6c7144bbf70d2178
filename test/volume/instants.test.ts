// The instant of a new point, while writes over what an older snapshot needs are staged: it is a cut through what was written, one
// write after the other, and nobody whose write can be staged waits for what was staged before it (point-creation.ts, staging.ts).
import t from 'tap'
import type { Pending } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, MemoryDisk, type Random, seededRandom } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshDisks, GRAIN as G, LateDisk, openOn, ProgrammedDisk, readAll } from './lab.js'
import { StagedPoints } from './point-lab.js'

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
t.comment(`SEED=${SEED}`)
t.setTimeout(300_000)
const RUNS = Number(process.env.RUNS ?? 150)
const GRAINS = 12
const SIZE = GRAINS * G
const LOG_BYTES = 8192 + 2 * 256 * 1024
/** So long whoever cannot be staged waits for what was staged. */
const SETTLE_MS = 25_000
/** Longer than staged writes rest. */
const MOVED_MS = 200

const turn = () => new Promise<void>(resolve => { setImmediate(resolve) })
async function turns(count = 30): Promise<void> { for (let i = 0; i < count; i++) await turn() }
const filled = (value: number, grains = 1): Buffer => Buffer.alloc(grains * G, value)

/** Old content finds its place when it is let, and a new point its folder. */
class HeldPoints extends StagedPoints {
  /** Set: it takes that long to make a point's folder. */
  making: Promise<void> | undefined
  readonly #disks: ProgrammedDisk[] = []

  constructor(log: MemoryDisk) {
    super(log)
    this.wrap = (disk, what) => {
      if (what === 'maps') return disk
      const held = new ProgrammedDisk(disk.sizeBytes)
      this.#disks.push(held)
      return held
    }
  }

  override async make(...asked: Parameters<StagedPoints['make']>) {
    await this.making
    return super.make(...asked)
  }

  hold(): void { for (const disk of this.#disks) disk.held = true }
  release(): void { for (const disk of this.#disks) disk.release() }
}

async function lab() {
  const disks = await freshDisks({ sizeBytes: SIZE, allData: true })
  const points = new HeldPoints(new MemoryDisk(LOG_BYTES))
  const clock = new ManualClock()
  const volume = await openOn(disks, SIZE, { points, clock })
  await volume.points.create({ name: 'old', kind: 'snapshot' })
  return { volume, clock, points, journal: disks.journal as MemoryDisk, live: disks.live as MemoryDisk }
}

async function bytesOf(volume: Volume, point?: string): Promise<string> {
  const device = point === undefined ? volume : volume.points.open(point)
  const content = await readAll(device)
  if (point !== undefined) await device.close()
  return Array.from({ length: GRAINS }, (_, grain) => content[grain * G]).join('')
}

/** Flushes wait until what it answers is called. */
function holdFlush(disk: MemoryDisk): () => void {
  let goOn!: () => void
  const held = new Promise<void>(resolve => { goOn = resolve })
  const flush = disk.flush.bind(disk)
  disk.flush = () => held.then(flush)
  return goOn
}

/** Whether it has come to its end by now. */
async function isOver(work: Pending | Promise<unknown>): Promise<boolean> {
  let over = false
  void Promise.resolve(work).then(() => { over = true })
  await turns()
  return over
}

const marks = (volume: Volume, since: string, until?: string): string =>
  volume.points.changedRuns(since, until).map(({ start, end }) => `${start}-${end}`).join(' ')

/** A point in the making: its instant was after grains 0 to 2 had become ones, and they cannot be moved to their places. */
async function divided(kind: 'snapshot' | 'bookmark', budgetBytes: number | null = null) {
  const { volume, clock, points, journal, live } = await lab()
  volume.setSpace({ budgetBytes, order: 'fail' })
  let go = (): void => undefined
  points.making = new Promise(resolve => { go = resolve })
  let instants = 0
  // The old one has it by the instant.
  await volume.write(11 * G, G, filled(7), 0)
  const made = volume.points.create({ name: 'new', kind, atInstant: () => { instants++ } })
  await turns()
  await volume.write(0, 3 * G, filled(1, 3), 0)
  points.hold()
  go()
  const hasEnded = await isOver(made.catch(() => undefined))
  return { volume, clock, points, journal, live, made, hasEnded, instants: () => instants }
}

for (const kind of ['snapshot', 'bookmark'] as const) {
  t.test(`${kind}: while what was staged before it finds no place, what can be staged is answered, and is not in it`, async t => {
    const { volume, points, made, hasEnded, instants } = await divided(kind)
    t.notOk(hasEnded)
    t.equal(instants(), 1)
    t.ok(await isOver(volume.write(2 * G, 2 * G, filled(2, 2), 0)), 'over what is staged, and what only the old one needs')
    t.ok(await isOver(volume.write(3 * G, 2 * G, filled(3, 2), 0)))
    t.ok(await isOver(volume.write(3 * G, G, filled(4), 0)), 'once more')
    t.ok(await isOver(volume.write(G, G, filled(5), 0)))
    t.ok(await isOver(volume.write(11 * G, G, filled(8), 0)), 'what nobody needs yet')
    const part = volume.write(8 * G, 512, filled(6), 0)
    t.notOk(await isOver(part), 'a part of a grain has to wait')
    t.equal(await bytesOf(volume), '152430000008')
    points.release()
    await made
    await part
    t.equal(await bytesOf(volume), '152430006008')
    t.equal(await bytesOf(volume, 'old'), '000000000000')
    if (kind === 'snapshot') t.equal(await bytesOf(volume, 'new'), '111000000007')
    t.equal(marks(volume, 'old', 'new'), '0-3 11-12')
    t.equal(marks(volume, 'new'), '1-5 8-9 11-12')
    await volume.close()
  })
}

t.test('it cannot be made after all: the writes beside it are there, and the older point has what it had', async t => {
  const { volume, points, made } = await divided('snapshot')
  await volume.write(2 * G, 2 * G, filled(2, 2), 0)
  points.putError = new NbdeltaError('io', 'no')
  points.release()
  await t.rejects(made, { code: 'io' })
  points.putError = undefined
  t.equal(await bytesOf(volume), '112200000007')
  t.equal(await bytesOf(volume, 'old'), '000000000000')
  t.equal(marks(volume, 'old'), '0-4 11-12')
  await volume.points.create({ name: 'again', kind: 'snapshot' })
  t.equal(await bytesOf(volume, 'again'), '112200000007')
  await volume.close()
})

for (const kind of ['snapshot', 'bookmark'] as const) {
  t.test(`${kind}: a disk that takes too long: it is not made, whoever waited goes on, and what was staged is moved later`, async t => {
    const { volume, clock, points, made } = await divided(kind)
    t.ok(await isOver(volume.write(2 * G, 2 * G, filled(2, 2), 0)))
    await clock.advance(SETTLE_MS - 1)
    const write = volume.write(8 * G, 512, filled(6), 0)
    const trim = volume.trim(9 * G, G)
    t.notOk(await isOver(write))
    t.notOk(await isOver(trim))
    await Promise.all([t.rejects(made, { code: 'busy', message: /did not come to rest in time/ }), clock.advance(1)])
    t.ok(await isOver(trim), 'which waits for no old content')
    t.equal(await bytesOf(volume), '112200000007')
    t.same(volume.points.list().map(({ name }) => name), ['old'])
    // Its old content goes where the others wait; a new point can be asked for meanwhile, and has what was staged behind the first instant.
    const again = volume.points.create({ name: 'again', kind: 'snapshot' })
    t.notOk(await isOver(again))
    points.release()
    await Promise.all([write, again])
    t.match(await bytesOf(volume), '112200006007')
    t.match(await bytesOf(volume, 'again'), /^11220000[06]007$/)
    t.equal(await bytesOf(volume, 'old'), '000000000000')
    t.equal(marks(volume, 'old'), '0-4 8-10 11-12')
    await volume.close()
  })
}

for (const isLate of [false, true]) t.test(`with a budget${isLate ? ' that comes later' : ''} what is staged beside it has a promise, and finds room`, async t => {
  const { volume, points, made } = await divided('snapshot', isLate ? null : 6 * G)
  // The old one has one grain, and a promise of three; two are left, and the new one needs what the old one has.
  t.ok(await isOver(volume.write(11 * G, G, filled(3), 0)))
  t.ok(await isOver(volume.write(4 * G, G, filled(4), 0)))
  if (isLate) volume.setSpace({ budgetBytes: 6 * G, order: 'fail' })
  const third = Promise.resolve(volume.write(5 * G, G, filled(5), 0)).then(() => 'done', (error: unknown) => (error as NbdeltaError).code)
  t.notOk(await isOver(third), 'it waits with those that cannot be staged')
  points.release()
  await made
  t.equal(await third, 'no-space')
  await volume.points.settled()
  t.equal(await bytesOf(volume), '111040000003')
  t.equal(await bytesOf(volume, 'new'), '111000000007')
  t.equal(volume.space.keptBytes, 6 * G)
  await volume.close()
})

t.test('what is staged behind an instant keeps its promise when what was staged before it has found its place', async t => {
  const { volume, points, journal, made } = await divided('snapshot', 5 * G)
  const goOn = holdFlush(journal)
  points.release()
  await turns()
  t.equal(volume.space.keptBytes, 4 * G)
  t.ok(await isOver(volume.write(0, G, filled(2), 0)), 'its old content is kept in memory, and not durably yet')
  t.equal(volume.space.keptBytes, 5 * G)
  goOn()
  await made
  t.equal(volume.space.keptBytes, 5 * G)
  await t.rejects(async () => { await volume.write(4 * G, G, filled(2), 0) }, { code: 'no-space' })
  await volume.close()
})

t.test('what the log refuses behind an instant leaves no promise behind', async t => {
  const { volume, points, live, made, clock } = await divided('snapshot', 5 * G)
  const goOn = holdFlush(live)
  points.release()
  await turns()
  const writeLog = points.log.write.bind(points.log)
  points.log.write = () => { throw new NbdeltaError('io', 'the disk failed') }
  await t.rejects(async () => { await volume.write(0, G, filled(2), 0) }, { code: 'io' })
  points.log.write = writeLog
  goOn()
  await made
  await clock.advance(MOVED_MS)
  t.equal(volume.space.keptBytes, 4 * G)
  t.equal(await bytesOf(volume), '111000000007')
  await volume.close()
})

interface Made { readonly name: string, readonly kind: 'snapshot' | 'bookmark', readonly least: number, readonly most: number }

/** One client writes, one write after the other; an operator makes points. Wrong: what is not as after some of the writes. */
async function race(seed: number): Promise<string | undefined> {
  const random: Random = seededRandom(seed)
  const late = (sizeBytes: number): LateDisk => new LateDisk(sizeBytes, random(2 ** 31))
  const { live, map, journal } = await freshDisks({ sizeBytes: SIZE, allData: true, live: late(SIZE) })
  const points = new StagedPoints(late(LOG_BYTES))
  points.wrap = (disk, what) => what === 'maps' ? disk : late(disk.sizeBytes)
  const clock = new ManualClock()
  const volume = await openOn({ live, map, journal }, SIZE, { points, clock })
  await volume.points.create({ name: 'old', kind: 'snapshot' })
  const contents = [Buffer.alloc(SIZE)]
  /** Grains of write i + 1. */
  const touched: (readonly [number, number])[] = []
  let isMaking = true
  let done = 0
  const client = async (): Promise<void> => {
    while (isMaking) {
      const grain = random(GRAINS)
      const count = 1 + random(Math.min(3, GRAINS - grain))
      const isPart = random(8) === 0
      const [offset, length] = isPart ? [grain * G + 512, 1024] : [grain * G, count * G]
      const data = Buffer.alloc(length, 1 + contents.length % 255)
      contents.push(Buffer.from(contents.at(-1)!).fill(data, offset, offset + length))
      touched.push([grain, isPart ? grain + 1 : grain + count])
      await volume.write(offset, length, data, 0)
      done++
      await turns(random(4))
    }
  }
  const made: Made[] = [{ name: 'old', kind: 'snapshot', least: 0, most: 0 }]
  const operator = async (): Promise<void> => {
    for (let i = 0; i < 6; i++) {
      await turns(random(12))
      if (random(3) === 0) await clock.advance(MOVED_MS)
      const kind = random(3) === 0 ? 'bookmark' : 'snapshot'
      const least = done
      await volume.points.create({ name: `p${i}`, kind })
      made.push({ name: `p${i}`, kind, least, most: touched.length })
    }
    isMaking = false
  }
  await Promise.all([client(), operator()])
  for (const when of ['at once', 'later']) {
    const wrong = await judge(volume, contents, touched, made)
    if (wrong) return `${when}: ${wrong}`
    await clock.advance(MOVED_MS)
    await turns()
  }
  await volume.close()
  return undefined
}

async function judge(
  volume: Volume, contents: readonly Buffer[], touched: readonly (readonly [number, number])[], made: readonly Made[],
): Promise<string | undefined> {
  if (!(await readAll(volume)).equals(contents.at(-1)!)) return 'live'
  let before: { readonly name: string, readonly at: number } | undefined
  for (const { name, kind, least, most } of made) {
    if (kind === 'bookmark') continue
    const device = volume.points.open(name)
    const content = await readAll(device)
    await device.close()
    let at = least
    while (at <= most && !contents[at]!.equals(content)) at++
    if (at > most) return `${name} is no cut between writes ${least} and ${most}`
    if (before) {
      const wanted = new Set<number>()
      for (const [from, to] of touched.slice(before.at, at)) for (let grain = from; grain < to; grain++) wanted.add(grain)
      const found = [...volume.points.changedRuns(before.name, name)].flatMap(({ start, end }) =>
        Array.from({ length: end - start }, (_, i) => start + i))
      if (String(found) !== String([...wanted].sort((a, b) => a - b))) {
        return `changed from ${before.name} to ${name}: ${found}, not ${[...wanted].sort((a, b) => a - b)}`
      }
    }
    before = { name, at }
  }
  return undefined
}

t.test('whatever is on its way, and however late disks answer, a point is a cut through one client\'s writes', async t => {
  for (let run = 0; run < RUNS; run++) {
    const wrong = await race(SEED + run)
    if (wrong) return t.fail(`SEED=${SEED + run}: ${wrong}`)
  }
  t.pass(`${RUNS} runs`)
})
