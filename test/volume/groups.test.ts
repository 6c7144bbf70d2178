// Groups: points of one instant (D1), all or none (D2), holds that end by themselves (D4), races on one name (D17).
import t from 'tap'
import { ManualClock, MemoryDisk } from '../../src/device/testing.js'
import { HOLD_MS } from '../../src/volume/point-creation.js'
import { GroupLab } from './group-lab.js'
import { GRAIN } from './lab.js'
import type { BlockDevice } from '../../src/device/block-device.js'

const ROUNDS = Number(process.env.ROUNDS ?? 500)
const WRITERS = 2
const VOLUMES = 3
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)

async function counterAt(device: Pick<BlockDevice, 'read'>, offset: number): Promise<number> {
  const bytes = Buffer.alloc(4)
  await device.read(offset, 4, bytes, 0)
  return bytes.readUInt32BE(0)
}

/** A busy machine takes some 20 ms a round. */
const TIMEOUT_MS = 60_000 + ROUNDS * 200
t.setTimeout(TIMEOUT_MS)

t.test(`D1: ${ROUNDS} group snapshots, dependent writes are never inverted`, { timeout: TIMEOUT_MS }, async t => {
  t.comment(`seed ${SEED}`)
  const lab = await GroupLab.open(VOLUMES, 4 * GRAIN, { late: SEED })
  let stop = false
  /** Writes k to the first volume, waits, k to the second, waits, ... */
  const writer = async (index: number): Promise<number> => {
    const bytes = Buffer.alloc(4)
    for (let k = 1; ; k++) {
      for (const volume of lab.volumes) {
        if (stop) return k
        bytes.writeUInt32BE(k)
        await volume.write(index * GRAIN + 8, 4, bytes, 0)
        // A memory disk may answer at once, and a snapshot wants its turn.
        if (k % 4 === index) await new Promise<void>(resolve => { setImmediate(resolve) })
      }
    }
  }
  const writers = Array.from({ length: WRITERS }, (_, index) => writer(index))
  let split = 0
  for (let round = 0; round < ROUNDS; round++) {
    await lab.snapshot('s')
    for (let index = 0; index < WRITERS; index++) {
      const found: number[] = []
      for (const { points } of lab.volumes) {
        const device = points.open('s')
        found.push(await counterAt(device, index * GRAIN + 8))
        await device.close()
      }
      const [first] = found
      const fine = found.every((value, at) => (at === 0 || value <= found[at - 1]!) && value >= first! - 1)
      if (!fine) { t.fail(`round ${round}: ${found.join(', ')}`); round = ROUNDS; break }
      if (found.some(value => value !== first)) split++
    }
    await Promise.all(lab.volumes.map(({ points }) => points.delete('s')))
    if (round % 64 === 0) for (const { points } of lab.volumes) await points.settled()
  }
  stop = true
  const written = await Promise.all(writers)
  t.comment(`writes went on meanwhile: ${written.join(', ')} rounds of ${VOLUMES} writes; ${split} cuts between dependent writes`)
  t.ok(split > 10, 'cuts fell between dependent writes')
  t.ok(Math.min(...written) > 100, 'writers were not starved')
  await lab.close()
})

t.test('one instant, one operation', async t => {
  const lab = await GroupLab.open(3, 4 * GRAIN)
  const made = await lab.snapshot('a')
  t.equal(new Set(made.map(({ group }) => group)).size, 1)
  t.not(made[0]!.group, null)
  t.not((await lab.snapshot('b', 'bookmark'))[0]!.group, made[0]!.group)
  for (const { points } of lab.volumes) t.same(points.list().map(({ name, kind }) => `${name} ${kind}`), ['a snapshot', 'b bookmark'])
  await lab.close()
})

t.test('D2: a member that refuses leaves all as they were, and is named', async t => {
  const lab = await GroupLab.open(3, 4 * GRAIN)
  await lab.volumes[1]!.points.create({ name: 's', kind: 'snapshot' })
  await t.rejects(lab.snapshot('s'), { code: 'exists', message: /volume v1: .*'s'/ })
  t.same(lab.volumes.map(({ points }) => points.list().length), [0, 1, 0])
  lab.members[2]!.store.make = async () => { throw new Error('planted') }
  await t.rejects(lab.snapshot('x'), { message: 'planted' })
  t.same(lab.volumes.map(({ points }) => points.list().length), [0, 1, 0])
  t.same(lab.members.map(({ store }) => store.present.size), [0, 1, 0], 'no folder is left')
  for (const volume of lab.volumes) await volume.write(0, 4, Buffer.alloc(4, 1), 0)
  await lab.close()
})

t.test('a record that cannot be written: none exists, what was taken goes again', async t => {
  const lab = await GroupLab.open(3, 4 * GRAIN)
  await lab.snapshot('old')
  lab.putError = new Error('planted')
  await t.rejects(lab.snapshot('new'), { message: 'planted' })
  for (const volume of lab.volumes) {
    await volume.write(0, 4, Buffer.alloc(4, 1), 0)
    t.same(volume.points.list().map(({ name }) => name), ['old'])
    await volume.points.settled()
    const device = volume.points.open('old')
    t.equal(await counterAt(device, 0), 0)
    await device.close()
  }
  lab.putError = undefined
  await lab.snapshot('new')
  await lab.close()
})

t.test('D4: a member that does not come to rest: the hold ends, writes to the others are only late', async t => {
  const clock = new ManualClock()
  let release!: () => void
  const stuck = new Promise<void>(resolve => { release = resolve })
  class StuckDisk extends MemoryDisk {
    slow = false
    override write(...args: Parameters<MemoryDisk['write']>) {
      super.write(...args)
      return this.slow ? stuck : undefined
    }
  }
  const disks: StuckDisk[] = []
  const live = (): StuckDisk => { const disk = new StuckDisk(4 * GRAIN); disks.push(disk); return disk }
  const lab = await GroupLab.open(3, 4 * GRAIN, { clock, live })
  // The last in order of uuid: the others are held when its turn comes.
  const last = [...lab.members].sort((a, b) => a.uuid < b.uuid ? -1 : 1).at(-1)!
  disks[lab.members.indexOf(last)]!.slow = true
  const hanging = Promise.resolve(last.volume.write(0, 4, Buffer.alloc(4, 1), 0))
  const snapshot = lab.snapshot('s')
  snapshot.catch(() => undefined)
  for (let turn = 0; turn < 50; turn++) await new Promise<void>(resolve => { setImmediate(resolve) })
  const others = lab.members.filter(member => member !== last)
  let late = 0
  const writes = others.map(({ volume }) => Promise.resolve(volume.write(0, 4, Buffer.alloc(4, 2), 0)).then(() => { late++ }))
  await clock.advance(HOLD_MS - 1)
  t.equal(late, 0, 'they wait')
  await clock.advance(2)
  await t.rejects(snapshot, { code: 'busy' })
  await Promise.all(writes)
  t.same(lab.volumes.map(({ points }) => points.list().length), [0, 0, 0])
  release()
  await hanging
  disks[lab.members.indexOf(last)]!.slow = false
  await lab.snapshot('s')
  for (const volume of lab.volumes) await volume.write(0, 4, Buffer.alloc(4, 3), 0)
  await lab.close()
})

t.test('D17: two operations on one name, overlapping groups: one wins, nobody hangs', async t => {
  const lab = await GroupLab.open(4, 4 * GRAIN, { late: SEED })
  const results = await Promise.allSettled([
    lab.snapshot('s'), lab.snapshot('s'), lab.volumes[2]!.points.create({ name: 's', kind: 'snapshot' }), lab.snapshot('other'),
  ])
  t.match(results[3], { status: 'fulfilled' })
  for (const { points } of lab.volumes) t.ok(points.list().filter(({ name }) => name === 's').length <= 1)
  t.equal(results.slice(0, 3).filter(({ status }) => status === 'fulfilled').length, 1)
  await lab.close()
})
