// PROTOCOL D1, D5: overlapping changes take effect in order of arrival; what waits for a dead client is dropped, what runs ends.
import t from 'tap'
import { GRAIN, ProgrammedDisk, freshVolume, readAll, SLOW, SMALL_JOURNAL_BYTES } from './lab.js'

const page = (byte: number): Buffer => Buffer.alloc(GRAIN, byte)

async function heldVolume() {
  const live = new ProgrammedDisk(8 * GRAIN)
  const volume = await freshVolume({ sizeBytes: 8 * GRAIN, live })
  await volume.write(0, 8 * GRAIN, Buffer.alloc(8 * GRAIN, 9), 0)
  live.held = true
  return { live, volume }
}

t.test('D1: overlapping requests wait for each other, others do not', async t => {
  const { live, volume } = await heldVolume()
  const order: string[] = []
  const log = (name: string) => () => { order.push(name) }
  const first = Promise.resolve(volume.write(0, GRAIN, page(1), 0)).then(log('first'))
  const second = Promise.resolve(volume.write(512, GRAIN, page(2), 0)).then(log('second'))
  const third = Promise.resolve(volume.zero(0, 2 * GRAIN, SLOW)).then(log('third'))
  const other = Promise.resolve(volume.trim(4 * GRAIN, GRAIN)).then(log('other'))
  await other
  t.strictSame(order, ['other'], 'the others wait')
  live.release()
  await Promise.all([first, second, third])
  t.strictSame(order, ['other', 'first', 'second', 'third'])
  t.ok((await readAll(volume, 0, 2 * GRAIN)).every(byte => byte === 0))
})

t.test('D5: the queued write of a dead client is dropped, its running one ends before a later overlapping write', async t => {
  const { live, volume } = await heldVolume()
  const origin = { gone: false }
  const running = volume.write(0, GRAIN, page(1), 0, origin)
  const queued = volume.write(0, GRAIN, page(2), 0, origin)
  const later = volume.write(0, 512, page(3), 0, { gone: false })
  origin.gone = true
  live.release()
  await running
  await t.rejects(Promise.resolve(queued), { code: 'gone' })
  await later
  const found = await readAll(volume, 0, GRAIN)
  t.equal(found[0], 3, 'the later write')
  t.equal(found[512], 1, 'the running one of the dead client, never the queued one')
})

t.test('a failing request lets the next one go on', async t => {
  const { live, volume } = await heldVolume()
  const failing = volume.zero(1, 5, { allocate: false, fast: true })
  await t.rejects(Promise.resolve(failing), { code: 'not-fast' })
  live.release()
  await volume.write(0, 10, page(4), 0)
  t.equal((await readAll(volume, 0, 1))[0], 4)
})

t.test('F1: zeros written over data stop when their client is gone', async t => {
  const sizeBytes = 64 * 2 ** 20
  const live = new ProgrammedDisk(sizeBytes)
  const volume = await freshVolume({ sizeBytes, live, journalBytes: SMALL_JOURNAL_BYTES, allData: true })
  // As many stale runs as the journal can note: what is zeroed from now on is zeroed by writing.
  for (let grain = 0; grain < 512; grain += 2) await volume.trim(grain * GRAIN, GRAIN)
  const before = live.calls.write
  const origin = { gone: false }
  const zeroing = volume.zero(0, sizeBytes, SLOW, origin)
  origin.gone = true
  await t.rejects(Promise.resolve(zeroing), { code: 'gone' })
  t.ok(live.calls.write - before < 600, `${live.calls.write - before} writes`)
})
