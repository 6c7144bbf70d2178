// GroupFlush: one sync for all who asked before it began, the next for the others; a failure latches (D7).
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { GroupFlush } from '../../src/device/group-flush.js'

interface Sync { resolve: () => void, reject: (error: Error) => void }
function lab(): { flushes: GroupFlush, syncs: Sync[] } {
  const syncs: Sync[] = []
  const flushes = new GroupFlush(() => new Promise<void>((resolve, reject) => { syncs.push({ resolve, reject }) }), () => 42)
  return { flushes, syncs }
}
const tick = (): Promise<void> => new Promise(resolve => { setImmediate(resolve) })

t.test('who asks while one runs gets the next one, shared', async t => {
  const { flushes, syncs } = lab()
  const done: string[] = []
  const ask = (name: string): Promise<void> => flushes.flush()!.then(() => { done.push(name) })
  const first = ask('first')
  t.equal(flushes.startedMs, 42)
  flushes.changed()
  const others = Promise.all([ask('second'), ask('third')])
  t.equal(syncs.length, 1)
  syncs[0].resolve()
  await first
  t.strictSame(done, ['first'])
  t.equal(syncs.length, 2, 'it began at once')
  const fourth = ask('fourth')
  syncs[1].resolve()
  await others
  syncs[2].resolve()
  await fourth
  t.strictSame(done, ['first', 'second', 'third', 'fourth'])
  t.equal(flushes.startedMs, Infinity)
  await flushes.idle()
})

t.test('nothing written since the last good flush began costs nothing; the very first flush is never free', async t => {
  const { flushes, syncs } = lab()
  const first = flushes.flush()
  t.ok(first, 'an earlier owner may have left dirty pages')
  syncs[0].resolve()
  await first
  t.equal(flushes.flush(), undefined)
  flushes.changed()
  const second = flushes.flush()
  flushes.changed()
  syncs[1].resolve()
  await second
  const third = flushes.flush()
  t.ok(third, 'what was written while it ran is not covered')
  syncs[2].resolve()
  await third
})

t.test('D7: a failure latches, for those who wait and for all later ones', async t => {
  const { flushes, syncs } = lab()
  const first = flushes.flush()!
  const second = flushes.flush()!
  syncs[0].reject(new Error('EIO: i/o error, fdatasync'))
  await t.rejects(first, { code: 'flush-failed', message: /i\/o error/ })
  await t.rejects(second, { code: 'flush-failed' })
  t.equal(syncs.length, 1, 'no second sync that would lie')
  t.throws(() => flushes.flush(), { code: 'flush-failed' })
  flushes.changed()
  t.throws(() => flushes.flush(), { code: 'flush-failed' })
  await tick()
  await flushes.idle()
})

t.test('nobody reached is no verdict: that flush fails, the next one asks again, and covers the same', async t => {
  const { flushes, syncs } = lab()
  const first = flushes.flush()!
  flushes.changed()
  const second = flushes.flush()!
  syncs[0].reject(new NbdeltaError('unreachable', 'nobody there'))
  await t.rejects(first, { code: 'unreachable' })
  t.equal(flushes.failure, undefined)
  syncs[1].resolve()
  await second
  t.equal(flushes.flush(), undefined, 'all is durable')
  flushes.changed()
  const third = flushes.flush()!
  syncs[2].reject(new NbdeltaError('flush-failed', 'writes may be lost'))
  await t.rejects(third, { code: 'flush-failed' })
  t.throws(() => flushes.flush(), { code: 'flush-failed' }, 'a doubt latches')
})
