// RangeLock: overlapping requests in order of arrival, others never wait, dropped ones never run (PROTOCOL D5).
import t from 'tap'
import { RangeLock } from '../../src/device/range-lock.js'
import { seededRandom } from '../../src/device/testing.js'

const tick = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })

t.test('what does not overlap is taken at once, what does waits', async t => {
  const lock = new RangeLock()
  t.ok(lock.idle)
  t.equal(lock.lock(0, 10), undefined)
  t.equal(lock.lock(10, 20), undefined)
  t.notOk(lock.tryLock(9, 11))
  let ran = false
  const waiting = lock.lock(5, 15)!.then(() => { ran = true })
  t.equal(lock.waiting, 1)
  lock.unlock(0, 10)
  await tick()
  t.notOk(ran, 'two of them block it')
  lock.unlock(10, 20)
  await waiting
  lock.unlock(5, 15)
  t.ok(lock.idle)
  t.throws(() => lock.unlock(5, 15), /nobody holds/)
})

t.test('a later one does not overtake a waiting one it overlaps', async t => {
  const lock = new RangeLock()
  const order: string[] = []
  lock.lock(0, 10)
  const second = lock.lock(5, 30)!.then(() => { order.push('second'); lock.unlock(5, 30) })
  const third = lock.lock(20, 25)!.then(() => { order.push('third'); lock.unlock(20, 25) })
  t.equal(lock.lock(40, 50), undefined, 'far away is free')
  lock.unlock(0, 10)
  await Promise.all([second, third])
  t.strictSame(order, ['second', 'third'])
})

t.test('shared holders pass each other, not a writer that came first', async t => {
  const lock = new RangeLock()
  t.ok(lock.tryLock(0, 10, true))
  t.ok(lock.tryLock(0, 10, true))
  const writer = lock.lock(0, 10)
  t.ok(writer)
  t.notOk(lock.tryLock(0, 10, true), 'the writer is not starved')
  lock.unlock(0, 10, true)
  lock.unlock(0, 10, true)
  await writer
  lock.unlock(0, 10)
  t.ok(lock.idle)
})

t.test('D5: the queued request of a client that is gone is dropped, the next one runs', async t => {
  const lock = new RangeLock()
  const origin = { gone: false }
  lock.lock(0, 10)
  const dropped = t.rejects(lock.lock(0, 10, origin)!, { code: 'gone' })
  const next = lock.lock(0, 10)!
  origin.gone = true
  lock.unlock(0, 10)
  await dropped
  await next
  lock.unlock(0, 10)
  t.ok(lock.idle)
})

t.test('seeded: never two overlapping holders, order of arrival kept', async t => {
  const seed = Number(process.env.SEED ?? 7)
  t.comment(`seed ${seed}`)
  const random = seededRandom(seed)
  const lock = new RangeLock()
  const held = new Set<{ start: number, end: number, shared: boolean, serial: number }>()
  const lastOf = new Array<number>(64).fill(-1)
  const one = async (serial: number): Promise<void> => {
    const start = random(60)
    const mine = { start, end: start + 1 + random(63 - start), shared: random(3) === 0, serial }
    await lock.lock(mine.start, mine.end, undefined, mine.shared)
    for (const other of held) {
      const clash = other.start < mine.end && mine.start < other.end && !(other.shared && mine.shared)
      if (clash) t.fail(`serial ${serial} holds together with ${other.serial}`)
    }
    held.add(mine)
    if (!mine.shared) {
      for (let i = mine.start; i < mine.end; i++) {
        if (lastOf[i] > serial) t.fail(`serial ${serial} ran after ${lastOf[i]}`)
        lastOf[i] = serial
      }
    }
    for (let i = random(4); i > 0; i--) await tick()
    held.delete(mine)
    lock.unlock(mine.start, mine.end, mine.shared)
  }
  const all: Promise<void>[] = []
  for (let serial = 0; serial < 2000; serial++) {
    all.push(one(serial))
    if (random(8) === 0) await tick()
  }
  await Promise.all(all)
  t.ok(lock.idle)
})

t.test('D5: a staircase of many dropped requests, each blocking only the next, unwinds without a deep stack', async t => {
  const lock = new RangeLock()
  const origin = { gone: false }
  const steps = 12_000
  lock.lock(0, 2)
  const waiting = Array.from({ length: steps }, (_, i) => lock.lock(i + 1, i + 3, origin)!.catch((error: unknown) => error))
  const last = lock.lock(steps + 1, steps + 5)!
  origin.gone = true
  lock.unlock(0, 2)
  t.ok((await Promise.all(waiting)).every(error => (error as { code?: string }).code === 'gone'))
  await last
  lock.unlock(steps + 1, steps + 5)
  t.ok(lock.idle)
})
