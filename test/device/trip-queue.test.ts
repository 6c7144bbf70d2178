// TripQueue: at most 32 in the pool, the rest in order; short files read as zeros; errors name what failed.
import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { systemClock } from '../../src/device/clock.js'
import { type TripReport, TripQueue } from '../../src/device/trip-queue.js'

t.test('many trips: bounded, complete, in order of arrival, each reported', async t => {
  const fd = openSync(join(t.testdir({ image: Buffer.alloc(1 << 20, 3) }), 'image'), 'r+')
  let running = 0
  let most = 0
  const reports: TripReport[] = []
  const queue = new TripQueue(fd, 'image', systemClock, {
    mark: () => { most = Math.max(most, ++running); return running },
    ended: report => { running--; reports.push(report) },
  })
  t.equal(queue.oldestMs, Infinity)
  const all = Array.from({ length: 500 }, (_, i) => queue.run('write', i * 1000, 1000, Buffer.alloc(1000, i), 0))
  t.equal(queue.size, 500)
  t.ok(queue.oldestMs <= systemClock.now())
  await Promise.all(all)
  // A slot is free before its trip is reported, so the next may begin first.
  t.ok(most <= 33, `${most} at a time`)
  t.equal(reports.length, 500)
  t.equal(queue.oldestMs, Infinity)
  const into = Buffer.alloc(500_000)
  await queue.run('read', 0, into.length, into, 0)
  for (let i = 0; i < 500; i++) if (into[i * 1000] !== i % 256 || into[i * 1000 + 999] !== i % 256) t.fail(`piece ${i}`)
  const tail = Buffer.alloc(100, 0xee)
  await queue.run('read', (1 << 20) - 50, 100, tail, 0)
  t.ok(tail.subarray(0, 50).every(byte => byte === 3) && tail.subarray(50).every(byte => byte === 0), 'past the end are zeros')
  await queue.idle()
  closeSync(fd)
})

t.test('an error says which request of which file', async t => {
  const fd = openSync(join(t.testdir({ image: 'abc' }), 'image'), 'r')
  const failed: boolean[] = []
  const queue = new TripQueue(fd, '/some/image', systemClock, { mark: () => 0, ended: report => { failed.push(report.failed) } })
  await t.rejects(queue.run('write', 10, 3, Buffer.from('xyz'), 0), { code: 'io', message: /write 3 bytes at 10 of \/some\/image/ })
  t.strictSame(failed, [true])
  closeSync(fd)
})
