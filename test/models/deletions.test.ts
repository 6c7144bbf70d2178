// B6: five snapshots with changes of every kind between them, deleted in all 120 orders, one at a time or all at once, with and without kills.
import t from 'tap'
import { SLOW } from '../volume/lab.js'
import { NaiveVolume } from './naive-volume.js'
import { Subject } from './subject.js'

const GRAIN = 4096
const SIZE = 4 * GRAIN + 1536

t.setTimeout(900_000)

function* orders(names: readonly string[]): Generator<string[]> {
  if (names.length === 0) yield []
  for (const name of names) for (const rest of orders(names.filter(other => other !== name))) yield [name, ...rest]
}

async function fiveSnapshots(): Promise<{ subject: Subject, model: NaiveVolume }> {
  const subject = await Subject.open({ sizeBytes: SIZE, grainBytes: GRAIN })
  const model = new NaiveVolume(GRAIN, Buffer.alloc(SIZE))
  const write = async (offset: number, length: number, byte: number): Promise<void> => {
    await subject.volume.write(offset, length, Buffer.alloc(length, byte), 0)
    model.write(offset, Buffer.alloc(length, byte))
  }
  const changes: (() => Promise<void>)[] = [
    () => write(0, 3 * GRAIN, 1),
    () => write(100, GRAIN, 2),
    async () => { await subject.volume.trim(GRAIN, 2 * GRAIN); model.trim(GRAIN, 2 * GRAIN) },
    () => write(2 * GRAIN + 7, SIZE - 2 * GRAIN - 7, 3),
    async () => { await subject.volume.zero(0, GRAIN, SLOW); model.zero(0, GRAIN) },
    () => write(GRAIN, 10, 4),
  ]
  for (const [i, change] of changes.entries()) {
    await change()
    if (i === changes.length - 1) break
    await subject.volume.points.create({ name: `s${i}`, kind: 'snapshot' })
    model.create(`s${i}`, 'snapshot')
  }
  return { subject, model }
}

for (const how of ['one after the other', 'all at once', 'a kill after each'] as const) {
  t.test(how, async t => {
    let count = 0
    for (const order of orders(['s0', 's1', 's2', 's3', 's4'])) {
      const { subject, model } = await fiveSnapshots()
      for (const name of order) {
        await subject.volume.points.delete(name)
        model.delete(name)
        if (how === 'one after the other') await subject.background()
        if (how === 'a kill after each') {
          await subject.kill()
          model.crash()
        }
        const wrong = await subject.wrong(model)
        if (wrong) return t.fail(`${order.join(' ')}, after ${name}: ${wrong}`)
      }
      await subject.background()
      await subject.volume.close()
      if (!subject.liveAtRest().equals(model.live)) return t.fail(`${order.join(' ')}: live at rest is no plain image`)
      if (subject.foldersLeft > 0) return t.fail(`${order.join(' ')}: ${subject.foldersLeft} folders are left`)
      count++
    }
    t.equal(count, 120)
  })
}
