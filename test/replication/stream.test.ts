// Stream: order, barriers, bounds, over a target that answers in any order (SEEDS C8, C16, S7).
import t from 'tap'
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, MemoryDisk, seededRandom } from '../../src/device/testing.js'
import { LogBudget } from '../../src/replication/log-budget.js'
import { Stream } from '../../src/replication/stream.js'
import { G } from './lab.js'

const GRAINS = 32
const SIZE = GRAINS * G

/** Requests wait until they are let go on, one by one, in whatever order. */
class Slow {
  readonly disk = new MemoryDisk(SIZE)
  readonly log: string[] = []
  readonly waiting: { readonly text: string, readonly start: number, readonly end: number, readonly go: () => void, readonly fail: (error: Error) => void }[] = []

  get device(): BlockDevice {
    const request = (text: string, start: number, length: number, run: () => unknown): Promise<void> => new Promise((resolve, reject) => {
      this.log.push(text)
      const go = (): void => {
        run()
        resolve()
      }
      this.waiting.push({ text, start, end: start + length, go, fail: reject })
    })
    return Object.assign(Object.create(this.disk) as MemoryDisk, {
      write: (offset: number, length: number, from: Buffer, at: number) => {
        const copy = Buffer.from(from.subarray(at, at + length))
        return request(`write ${offset} ${length}`, offset, length, () => this.disk.write(offset, length, copy, 0))
      },
      zero: (offset: number, length: number, mode: { allocate: boolean, fast: boolean }) =>
        request(`zero ${offset} ${length}`, offset, length, () => this.disk.zero(offset, length, mode)),
      flush: () => request('flush', 0, 0, () => undefined),
    })
  }

  async let(index = 0): Promise<void> {
    this.waiting.splice(index, 1)[0]!.go()
    await settle()
  }
}

async function settle(): Promise<void> { for (let i = 0; i < 3; i++) await new Promise(resolve => { setImmediate(resolve) }) }

async function open(waits = false, budget = new LogBudget()) {
  const clock = new ManualClock()
  const slow = new Slow()
  const ends: string[] = []
  const stream = new Stream({ grainBytes: G, sizeBytes: SIZE, waits, timeoutMs: 5000, clock, budget, onEnd: reason => { ends.push(reason) } })
  let watched = false
  stream.collect({ watch: () => {
    watched = true
    return () => { watched = false }
  } })
  const calls: string[] = []
  const session = {
    stream: async () => {
      slow.log.push('counts')
      calls.push('stream')
      return slow.device
    },
    suspend: async () => { slow.log.push('counts no more') },
  }
  return { clock, slow, ends, stream, session, isWatched: () => watched }
}

t.test('what overlaps goes one after the other, the rest at once; a flush behind all before it', async t => {
  const { slow, stream, session } = await open(true)
  await stream.send(session)
  const write = (at: number, length: number, value: number): void => { void stream.wrote(at, length, Buffer.alloc(length, value), 0) }
  write(0, 100, 1)
  write(200, 100, 2)
  write(50, 100, 3)
  write(400, 100, 4)
  void stream.flushed()
  write(600, 10, 5)
  await settle()
  t.same(slow.log.slice(1), ['write 0 100', 'write 200 100'], 'the third waits for the first, and whatever is behind it as well')
  await slow.let(0)
  t.same(slow.log.slice(3), ['write 50 100', 'write 400 100'])
  await slow.let(2)
  await slow.let(1)
  t.equal(slow.log.length, 5, 'one is under way')
  await slow.let(0)
  t.same(slow.log.slice(5), ['flush', 'write 600 10'], 'behind a flush it goes on')
  stream.end()
})

t.test('more than others are kept waiting for goes out as well, in further turns', async t => {
  const { slow, stream, session } = await open()
  await stream.send(session)
  const length = 600 * 1024
  for (let at = 0; at < 4; at++) stream.zeroed(at * length, length)
  for (let turns = 0; turns < 4; turns++) await settle()
  t.same(slow.log.slice(1), [0, 1, 2, 3].map(at => `zero ${at * length} ${length}`))
  stream.end()
})

t.test('a mark waits for all before it, and holds what is behind it', async t => {
  const { slow, stream, session } = await open()
  await stream.send(session)
  stream.wrote(0, 10, Buffer.alloc(10, 1), 0)
  let reached = false
  void stream.mark().then(() => { reached = true })
  stream.wrote(20, 10, Buffer.alloc(10, 2), 0)
  await settle()
  t.notOk(reached)
  t.same(slow.log, ['counts', 'write 0 10'])
  await slow.let()
  t.ok(reached)
  t.same(slow.log, ['counts', 'write 0 10'])
  t.same(stream.takeCounts(), { data: 10, zeros: 0, equal: 0 })
  stream.release()
  await settle()
  t.same(slow.log, ['counts', 'write 0 10', 'write 20 10'])
  const late = stream.mark()
  stream.end()
  await t.rejects(late, { code: 'unreachable' })
  await t.rejects(stream.mark(), { code: 'unreachable' })
})

t.test('while a restore is shipped nothing counts, and nothing else is sent', async t => {
  const { slow, stream, session } = await open()
  await stream.send(session)
  const content = new MemoryDisk(SIZE)
  await content.write(G, G, Buffer.alloc(G, 7), 0)
  const grains = new GrainBitmap(GRAINS)
  grains.set(1, 2)
  grains.set(4, 5)
  let closed = false
  content.close = async () => { closed = true }
  stream.wrote(0, 10, Buffer.alloc(10, 1), 0)
  stream.restored(grains, content, 's')
  stream.wrote(G, 10, Buffer.alloc(10, 2), 0)
  t.equal(stream.facts().behindBytes, 2 * G + 20)
  t.notOk(stream.facts().inStep)
  await settle()
  t.same(slow.log, ['counts', 'write 0 10'])
  await slow.let()
  await settle()
  const [, , ...shipped] = slow.log
  t.same([shipped[0], ...shipped.slice(1).sort()], ['counts no more', `write ${G} ${G}`, `zero ${4 * G} ${G}`])
  t.notOk(closed)
  await slow.let()
  await slow.let()
  await settle()
  t.same(slow.log.slice(-2), ['counts', `write ${G} 10`])
  t.ok(closed, 'the snapshot is let go')
  await slow.let()
  t.ok(stream.facts().inStep)
  stream.end()
})

t.test('answers wait only in step; a failure or a silence ends it for everybody, once', async t => {
  const { clock, slow, stream, session, ends, isWatched } = await open(true)
  t.equal(stream.wrote(0, 10, Buffer.alloc(10), 0), undefined, 'while a cycle runs nobody waits')
  await stream.send(session)
  await settle()
  t.type(stream.wrote(20, 10, Buffer.alloc(10), 0), Promise, 'little is left: from now on they do')
  await slow.let(1)
  t.notOk(stream.facts().inStep, 'what was answered has not arrived')
  await slow.let()
  t.ok(stream.facts().inStep)
  const waits = stream.wrote(40, 10, Buffer.alloc(10), 0)
  t.type(waits, Promise)
  await clock.advance(4000)
  t.same(ends, [])
  await clock.advance(2500)
  await waits
  t.same(ends, ['the target has done nothing for 5 s'])
  t.notOk(isWatched())
  t.equal(stream.wrote(60, 10, Buffer.alloc(10), 0), undefined)
  const other = await open(true)
  await other.stream.send(other.session)
  const [first, second] = [other.stream.wrote(0, 10, Buffer.alloc(10), 0), other.stream.flushed()]
  other.slow.waiting[0]!.fail(new NbdeltaError('io', 'the disk failed'))
  await Promise.all([first, second])
  t.same(other.ends, ['the target failed: the disk failed'])
  const idle = await open(true)
  await idle.stream.send(idle.session)
  await idle.clock.advance(60_000)
  t.same(idle.ends, [], 'with nothing under way it may be silent')
  idle.stream.end()
})

t.test('sync: much in the log holds answers back until the target is in step, though clients never rest', async t => {
  const { slow, stream, session, ends } = await open(true)
  const [before, clients] = [400, 8]
  let at = 0
  const next = (): unknown => stream.wrote(at++ * 8 % SIZE, 8, Buffer.alloc(8, at), 0)
  for (let i = 0; i < before; i++) t.equal(next(), undefined)
  await stream.send(session)
  let [answered, arrived, running] = [0, 0, true]
  const client = async (): Promise<void> => {
    while (running) {
      const pending = next()
      if (pending === undefined) throw new Error('nothing holds it back')
      await pending
      answered++
    }
  }
  const all = Promise.all(Array.from({ length: clients }, client))
  await settle()
  t.equal(answered, 0)
  while (!stream.facts().inStep && arrived < 10 * before) {
    await slow.let()
    arrived++
    if (arrived === before / 2) t.equal(answered, arrived / 2, 'one for two that have arrived')
  }
  t.ok(stream.facts().inStep)
  t.ok(stream.facts().behindBytes > 0, 'and the log has never been empty')
  running = false
  while (slow.waiting.length > 0) await slow.let()
  await all
  t.equal(at, slow.log.length - 1, 'each was sent once')
  t.same(ends, [])
  stream.end()
})

t.test('sync: who is held back is let go by a restore, by the end, and after the timeout', async t => {
  const { clock, stream, session } = await open(true)
  const held: string[] = []
  const next = (name: string): void => {
    const pending = stream.wrote(0, 8, Buffer.alloc(8, 1), 0)
    if (pending) void pending.then(() => { held.push(name) })
  }
  for (let i = 0; i < 400; i++) next('never')
  await stream.send(session)
  next('timeout')
  await clock.advance(4000)
  t.same(held, [])
  await clock.advance(1500)
  t.same(held, ['timeout'], 'while the target does nothing at all')
  next('restore')
  await settle()
  t.same(held, ['timeout'])
  stream.restored(new GrainBitmap(GRAINS), new MemoryDisk(SIZE), 's')
  await settle()
  t.same(held, ['timeout', 'restore'])
  next('never')
  stream.end()
  const other = await open(true)
  for (let i = 0; i < 400; i++) other.stream.wrote(0, 8, Buffer.alloc(8, 1), 0)
  await other.stream.send(other.session)
  const ended = other.stream.wrote(0, 8, Buffer.alloc(8, 1), 0)
  t.type(ended, Promise)
  other.stream.end()
  await ended
  t.same(held, ['timeout', 'restore'])
})

t.test('sync: while a cycle ships the image, a log that is half full slows clients down, a little', async t => {
  const { clock, stream } = await open(true)
  const piece = Buffer.alloc(2 ** 20)
  for (let i = 0; i < 32; i++) {
    const pending = stream.wrote(0, piece.length, piece, 0)
    if (i < 31) t.equal(pending, undefined)
    else t.type(pending, Promise)
  }
  let gone = false
  void (stream.wrote(0, piece.length, piece, 0) as Promise<void>).then(() => { gone = true })
  await clock.advance(90)
  t.notOk(gone)
  await clock.advance(20)
  t.ok(gone)
  stream.end()
})

t.test('S7: the logs of all streams have a limit together; what one held is free when it ends, or when it has arrived', async t => {
  const budget = new LogBudget(100)
  const [one, other, third] = [await open(false, budget), await open(false, budget), await open(false, budget)]
  const write = ({ stream }: typeof one, length: number): void => { stream.wrote(0, length, Buffer.alloc(length), 0) }
  write(one, 60)
  write(other, 40)
  t.notOk(budget.isExceeded, 'what fits exactly fits')
  write(other, 1)
  t.match(other.ends, [/all mirrors together are full/])
  t.same(one.ends, [], 'who came first goes on')
  write(third, 40)
  t.same(third.ends, [], 'with what the other has left')
  await one.stream.send(one.session)
  await settle()
  await one.slow.let()
  write(third, 60)
  t.same(third.ends, [], 'what has arrived is held no more')
  third.stream.end()
  one.stream.end()
  budget.add(100)
  t.notOk(budget.isExceeded, 'and in the end there is nothing')
})

t.test('whatever order answers come in, what is there is always what the source was at some moment', async t => {
  const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))
  t.comment(`SEED=${seed}`)
  const random = seededRandom(seed)
  let wrong = 0
  for (let life = 0; life < 40; life++) {
    const { slow, stream, session } = await open()
    const source = Buffer.alloc(SIZE)
    const changes = 200
    await stream.send(session)
    for (let i = 0; i < changes; i++) {
      const offset = random(SIZE - 1)
      const length = 1 + random(Math.min(SIZE - offset, 3 * G))
      if (random(4) === 0) {
        source.fill(0, offset, offset + length)
        stream.zeroed(offset, length)
      } else {
        source.fill(1 + random(255), offset, offset + length)
        stream.wrote(offset, length, source, offset)
      }
      if (random(3) === 0) await settle()
      const { waiting } = slow
      for (const [index, one] of waiting.entries()) {
        if (waiting.slice(0, index).some(({ start, end }) => one.start < end && start < one.end)) wrong++
      }
      while (waiting.length > random(20)) waiting.splice(random(waiting.length), 1)[0]!.go()
    }
    while (stream.facts().behindBytes > 0) {
      await settle()
      while (slow.waiting.length > 0) slow.waiting.splice(random(slow.waiting.length), 1)[0]!.go()
    }
    const there = Buffer.alloc(SIZE)
    await slow.disk.read(0, SIZE, there, 0)
    if (!there.equals(source)) t.fail(`life ${life} has ended with other content`, { seed })
    if (slow.log.length !== changes + 1) t.fail('something was sent twice, or not at all', { seed })
    stream.end()
  }
  t.equal(wrong, 0, 'nothing was sent while what it overlaps was under way')
})
