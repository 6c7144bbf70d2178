// B16: after two snapshots and every two operations, the delta between each two of them, either way round or a point and
// itself, applied to the one gives the other; and it carries no grain that no operation reached.
import t from 'tap'
import { MemoryDisk } from '../../src/device/testing.js'
import { applied, streamOf } from '../volume/delta-lab.js'
import { UUID } from '../volume/lab.js'
import { NaiveVolume } from './naive-volume.js'
import { SIZES } from './operations.js'
import { begun, GRAIN, leaves } from './sequences.js'
import { Subject } from './subject.js'

t.setTimeout(900_000)

t.test('all pairs', async t => {
  let pairs = 0
  const { model, path } = begun('two snapshots')
  for (const operations of leaves(model, 2, path)) {
    const now = new NaiveVolume(GRAIN, Buffer.alloc(SIZES[0]))
    const subject = await Subject.open({ sizeBytes: SIZES[0], grainBytes: GRAIN })
    for (const [i, operation] of operations.entries()) {
      await operation.run(subject, now, i + 1)
      operation.model(now, i + 1)
    }
    const snapshots = now.points.filter(({ kind }) => kind === 'snapshot')
    for (const from of snapshots) {
      for (const to of snapshots) {
        const older = now.points.indexOf(from) <= now.points.indexOf(to) ? [from, to] : [to, from]
        const runs = subject.volume.points.changedRuns(older[0].name, older[1].name)
        const device = subject.volume.points.open(to.name)
        const base = subject.volume.points.get(from.name)!
        const stream = await streamOf({ volume: { uuid: UUID, grainBytes: GRAIN }, from: base, runs, to: device })
        await device.close()
        const target = MemoryDisk.from(from.content)
        const committed = await applied(stream, target, base.uuid)
        pairs++
        if (committed === device.point.uuid && target.toBuffer().equals(to.content)) continue
        return t.fail(`${operations.map(({ name }) => name).join('; ')}: the delta from ${from.name} to ${to.name} is wrong`)
      }
    }
  }
  t.ok(pairs > 1000, `${pairs} deltas`)
})
