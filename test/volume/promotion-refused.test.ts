// A promotion, or the end of one, whose record the disk refused has changed nothing: what was being copied goes on.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { Rig } from './inherit-lab.js'
import { GRAIN } from './lab.js'

const G = GRAIN
const GRAINS = 8
const OTHER = '00000000-0000-4000-8000-0000000000bb'
const SLOW = { bytesPerSecond: 1 }

/** A clone of another volume's snapshot, whose every grain is full. */
async function clone(): Promise<Rig> {
  const base = await Rig.open({ sizeBytes: GRAINS * G, uuid: OTHER })
  await base.volume.write(0, GRAINS * G, Buffer.alloc(GRAINS * G, 7), 0)
  const { name, uuid } = await base.volume.points.create({ name: 's', kind: 'snapshot' })
  const rig = await Rig.open({ sizeBytes: GRAINS * G })
  await rig.inherit.make('clone', GRAINS, true)
  await rig.inherit.put([], { kind: 'clone', source: { volume: OTHER, point: uuid }, undo: null })
  await rig.reopen(true)
  rig.volume.inheritor.attach('clone', base.volume.points.open(name), async () => undefined)
  return rig
}

async function goesOn({ volume, clock }: Rig): Promise<boolean> {
  for (let i = 0; i < 50 && volume.inheritor.job; i++) {
    await clock.advance(10_000_000)
    await new Promise(resolve => { setImmediate(resolve) })
  }
  return volume.inheritor.job === undefined
}

const refuse = async (): Promise<void> => { throw new NbdeltaError('io', 'the disk failed') }
const allow = async (): Promise<void> => undefined

t.test('a second promotion that is refused leaves the first one copying', async t => {
  const rig = await clone()
  await rig.volume.inheritor.promote(1)
  rig.inherit.onPut = refuse
  await t.rejects(rig.volume.inheritor.promote(), { code: 'io' })
  rig.inherit.onPut = allow
  t.same(rig.inherit.inheritance?.copier, SLOW, 'as the table says')
  t.ok(await goesOn(rig), 'all is copied')
})

t.test('a first promotion that is refused copies nothing', async t => {
  const rig = await clone()
  rig.inherit.onPut = refuse
  await t.rejects(rig.volume.inheritor.promote(), { code: 'io' })
  rig.inherit.onPut = allow
  t.equal(rig.volume.inheritor.job, undefined)
})

t.test('a promotion whose end is refused goes on; ended, it copies nothing more', async t => {
  const rig = await clone()
  const job = await rig.volume.inheritor.promote(1)
  rig.inherit.onPut = refuse
  await t.rejects(job.cancel(), { code: 'io' })
  rig.inherit.onPut = allow
  const before = job.progress().doneBytes
  for (let i = 0; i < 10; i++) {
    await rig.clock.advance(1_000_000)
    await new Promise(resolve => { setImmediate(resolve) })
  }
  const { doneBytes } = job.progress()
  t.ok(doneBytes > before && doneBytes < GRAINS * G, `${doneBytes} bytes are copied, ${before} before`)
  await job.cancel()
  await t.rejects(job.finished, { code: 'cancelled' })
  t.equal(rig.volume.inheritor.job, undefined)
  t.equal(rig.inherit.inheritance?.copier, undefined)
})
