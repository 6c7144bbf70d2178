// The oracle of the kill test can fail: lost, torn, misplaced and resurrected sectors are all told from good ones.
import t from 'tap'
import { SECTOR, StampedWindows } from './stamped-windows.js'

const WINDOW = { offset: 8 * SECTOR, length: 64 * SECTOR }
const range = { offset: 16 * SECTOR, length: 4 * SECTOR }

function written(): { model: StampedWindows, older: Buffer, newer: Buffer } {
  const model = new StampedWindows([WINDOW])
  const [first, second] = [model.newStamp(), model.newStamp()]
  const older = model.bytes(range, first)
  const newer = model.bytes(range, second)
  model.known(range, first)
  model.known(range, second)
  return { model, older, newer }
}

t.test('what was acknowledged is right, and nothing else is', async t => {
  const { model, older, newer } = written()
  t.equal(model.judge(range, newer), '')
  t.match(model.judge(range, older), /stamp 1, allowed 2/, 'a lost write')
  t.match(model.judge(range, Buffer.alloc(4 * SECTOR)), /stamp 0/, 'a lost write over zeros')
  const torn = Buffer.from(newer)
  older.copy(torn, 3 * SECTOR + 100, 3 * SECTOR + 100)
  t.match(model.judge(range, torn), new RegExp(`byte ${19 * SECTOR}`), 'a torn sector')
  const misplaced = Buffer.concat([newer.subarray(SECTOR, 2 * SECTOR), newer.subarray(SECTOR)])
  t.match(model.judge(range, misplaced), new RegExp(`byte ${16 * SECTOR}`), 'a sector of another place')
})

t.test('a doubt allows both outcomes sector by sector, until it has been looked at', async t => {
  const { model, newer } = written()
  const third = model.newStamp()
  model.doubtful(range, third)
  const mixed = Buffer.concat([newer.subarray(0, SECTOR), model.bytes(range, third).subarray(SECTOR)])
  t.equal(model.judge(range, mixed), '')
  t.match(model.judge(range, newer), /allowed 3/, 'what was seen may not change any more')
})

t.test('what was zeroed does not come back', async t => {
  const { model, newer } = written()
  model.known(range, 0)
  t.equal(model.hasData(WINDOW), false)
  t.match(model.judge(range, newer), /stamp 2, allowed 0/)
})

t.test('claims do not overlap, and a held window runs empty', async t => {
  const { model } = written()
  t.ok(model.claim(range))
  t.notOk(model.claim({ offset: 19 * SECTOR, length: 10 * SECTOR }))
  t.ok(model.claim({ offset: 20 * SECTOR, length: 10 * SECTOR }))
  model.hold(WINDOW)
  t.notOk(model.claim({ offset: 40 * SECTOR, length: SECTOR }))
  t.notOk(model.claim(WINDOW, true))
  model.release(WINDOW)
  t.ok(model.claim(WINDOW, true))
})

t.test('a snapshot holds what was answered before it was asked for; what is in flight until it is answered may be in it or not', async t => {
  const { model, newer } = written()
  const late = { offset: 40 * SECTOR, length: SECTOR }
  t.ok(model.claim(late), 'in flight when the snapshot is answered')
  const snapshot = model.take()
  const third = model.newStamp()
  model.known({ offset: range.offset, length: SECTOR }, third)
  const taken = snapshot.judge.bind(snapshot)
  let over = false
  const waiting = model.taken(snapshot).then(() => { over = true })
  await new Promise(resolve => { setTimeout(resolve, 10) })
  t.notOk(over, 'it waits for what was in flight')
  const fourth = model.newStamp()
  model.known(late, fourth)
  model.release(late)
  await waiting
  model.known(range, model.newStamp())
  t.equal(taken({ offset: range.offset, length: SECTOR }, model.bytes({ offset: range.offset, length: SECTOR }, third)), '')
  t.equal(taken({ offset: 17 * SECTOR, length: 3 * SECTOR }, newer.subarray(SECTOR)), '')
  t.match(taken({ offset: 17 * SECTOR, length: SECTOR }, model.bytes({ offset: 17 * SECTOR, length: SECTOR }, 5)), /stamp 5, allowed 2/, 'what came later')
  t.equal(taken(late, model.bytes(late, fourth)), '')
  t.strictSame(model.differences(snapshot), [16, 17, 18, 19].map(sector => sector * SECTOR))
  model.become(snapshot)
  t.strictSame(model.differences(snapshot), [])
})
