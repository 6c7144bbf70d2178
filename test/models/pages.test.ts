// D4, D3: a map of several pages of which one was saved: the others are what they were, after a clean close and after a kill.
import t from 'tap'
import { PAGE_BITS } from '../../native-free/grain-bitmap.js'
import { Subject } from './subject.js'

const GRAIN = 4096
const sizeBytes = 3 * PAGE_BITS * GRAIN
const LAST = 2 * PAGE_BITS + 5

async function bytesAt(subject: Subject, name: string, grain: number): Promise<number> {
  const device = subject.volume.points.open(name)
  const into = Buffer.alloc(GRAIN)
  await device.read(grain * GRAIN, GRAIN, into, 0)
  await device.close()
  return into[7]
}

for (const how of ['reopen', 'kill'] as const) {
  t.test(how, async t => {
    const subject = await Subject.open({ sizeBytes, grainBytes: GRAIN })
    const write = async (grain: number, byte: number): Promise<void> => { await subject.volume.write(grain * GRAIN, GRAIN, Buffer.alloc(GRAIN, byte), 0) }
    for (const grain of [1, LAST]) await write(grain, 1)
    await subject.volume.points.create({ name: 'first', kind: 'snapshot' })
    await write(1, 2)
    await subject.background()
    await subject[how]()
    await subject.background()
    await write(LAST, 3)
    t.strictSame([await bytesAt(subject, 'first', 1), await bytesAt(subject, 'first', LAST)], [1, 1], 'the snapshot is what it was')
    await subject.reopen()
    t.strictSame([await bytesAt(subject, 'first', 1), await bytesAt(subject, 'first', LAST)], [1, 1], 'and after one more open')
    t.strictSame(subject.volume.points.changedRuns('first'), [{ start: 1, end: 2 }, { start: LAST, end: LAST + 1 }], 'and nothing else was marked')
    t.strictSame(subject.volume.recovered.notes, [], 'nothing was damaged')
  })
}
