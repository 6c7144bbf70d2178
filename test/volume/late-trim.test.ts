// D2: a trim in the middle of a checkpoint: its record may be lost in a power cut, but never while the map already believes it.
import t from 'tap'
import { crashStates, DiskArray, ManualClock } from '../../src/device/testing.js'
import { freshDisks, GRAIN, killed, openOn, readAll } from './lab.js'

const SIZE = 8 * GRAIN

t.test('D2: no power cut shows bytes under a hole that a trim made while a checkpoint ran', async t => {
  const fresh = await freshDisks({ sizeBytes: SIZE })
  const before = await openOn(fresh, SIZE)
  await before.write(0, SIZE, Buffer.alloc(SIZE, 0xaa), 0)
  await before.flush()
  await before.close()

  const array = new DiskArray(killed(fresh))
  const live = array.disk('live')
  const clock = new ManualClock()
  const volume = await openOn({ live, map: array.disk('map'), journal: array.disk('journal') }, SIZE, { clock })
  await volume.trim(7 * GRAIN, GRAIN)
  await clock.advance(100)
  let release: (() => void) | undefined
  const flush = live.flush.bind(live)
  live.flush = () => new Promise<void>(resolve => { release = resolve }).then(flush)
  await clock.advance(11_000)
  t.ok(release, 'a checkpoint is flushing')
  await volume.trim(0, GRAIN)
  live.flush = flush
  release!()
  await clock.advance(100)

  let states = 0
  const bad: string[] = []
  for (const state of crashStates(array, { seed: 1 })) {
    states++
    const again = await openOn(killed(state.disks), SIZE)
    const found = await readAll(again)
    found.fill(0x55, 0, 512)
    await again.write(0, 512, found, 0)
    if (!found.equals(await readAll(again))) bad.push(`after event ${state.position}: ${state.story}`)
  }
  t.comment(`${states} states`)
  t.strictSame(bad.slice(0, 3), [], 'writing to a part of a grain changes no other part')
})
