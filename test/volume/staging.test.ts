// Staged first overwrites beside writes in place: whatever is answered is read from then on, by clients, snapshots and the next
// process; what the log's disk refused may be old or new, but stays what it is read as once it is written again.
import t from 'tap'
import type { Pending } from '../../src/device/block-device.js'

import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock, MemoryDisk, seededRandom } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { freshDisks, GRAIN, killed, LateDisk, openOn, readAll, SLOW } from './lab.js'
import { StagedPoints } from './point-lab.js'

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
t.comment(`SEED=${SEED}`)
t.setTimeout(300_000)
const RUNS = Number(process.env.RUNS ?? 60)
const GRAINS = 12
const SIZE = GRAINS * GRAIN
const LOG_BYTES = 8192 + 2 * 256 * 1024

/** Refuses one write in six, having done a part of it or all of it. */
class RefusingDisk extends MemoryDisk {
  readonly #random
  constructor(sizeBytes: number, seed: number) {
    super(sizeBytes)
    this.#random = seededRandom(seed)
  }

  override write(offset: number, length: number, from: Buffer, at: number): Pending {
    if (this.#random(6) > 0) return super.write(offset, length, from, at)
    const part = this.#random(length / 512 + 1) * 512
    if (part > 0) super.write(offset, part, from, at)
    throw new NbdeltaError('no-space', 'no room on this disk')
  }
}

async function open(log: MemoryDisk, clock = new ManualClock()) {
  const disks = await freshDisks({ sizeBytes: SIZE, allData: true })
  const points = new StagedPoints(log)
  const volume = await openOn(disks, SIZE, { clock, points })
  return { disks, points, volume, clock }
}

const fill = (grains: number, byte: number): Buffer => Buffer.alloc(grains * GRAIN, byte)
const write = async (volume: Volume, grain: number, data: Buffer): Promise<void> => { await volume.write(grain * GRAIN, data.length, data, 0) }
const turn = () => new Promise(resolve => { setImmediate(resolve) })

t.test('a grain that may be overwritten in place, staged together with one that may not, is not overtaken', async t => {
  const { volume, clock } = await open(new MemoryDisk(LOG_BYTES))
  await volume.points.create({ name: 'kept', kind: 'snapshot' })
  await write(volume, 1, fill(1, 1))
  await clock.advance(1000)
  await volume.write(GRAIN, 512, fill(1, 2), 0)
  await write(volume, 1, fill(1, 3))
  await write(volume, 0, fill(2, 4))
  await write(volume, 1, fill(1, 5))
  t.ok((await readAll(volume, GRAIN, GRAIN)).equals(fill(1, 5)), 'at once')
  await clock.advance(1000)
  t.ok((await readAll(volume, GRAIN, GRAIN)).equals(fill(1, 5)), 'when everything is in its place')
  await volume.close()
})

t.test('what a disk that failed has kept from its place is moved when it works again, though nobody asks', async t => {
  const { disks, volume, clock } = await open(new MemoryDisk(LOG_BYTES))
  const live = disks.live as MemoryDisk
  await volume.points.create({ name: 'kept', kind: 'snapshot' })
  const writeLive = live.write.bind(live)
  let tries = 0
  live.write = () => {
    tries++
    throw new NbdeltaError('io', 'the disk failed')
  }
  await write(volume, 1, fill(1, 1))
  await clock.advance(1000)
  t.equal(tries, 1)
  live.write = writeLive
  await clock.advance(30_000)
  t.ok(live.toBuffer().subarray(GRAIN, 2 * GRAIN).equals(fill(1, 1)))
  await volume.close()
})

t.test('what is staged while all before it is being retired is moved, though nobody asks', async t => {
  const { disks, volume, clock } = await open(new MemoryDisk(LOG_BYTES))
  const live = disks.live as MemoryDisk
  await volume.points.create({ name: 'kept', kind: 'snapshot' })
  await write(volume, 1, fill(1, 1))
  let goOn!: () => void
  const held = new Promise<void>(resolve => { goOn = resolve })
  live.flush = () => held
  await clock.advance(1000)
  await write(volume, 2, fill(1, 2))
  goOn()
  await turn()
  await clock.advance(1000)
  t.ok(live.toBuffer().subarray(GRAIN, 3 * GRAIN).equals(Buffer.concat([fill(1, 1), fill(1, 2)])))
  await volume.close()
})

/** As a client that asks again when it is refused. */
async function stubbornly(work: () => Pending | Promise<unknown>): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await work()
      return
    } catch (error) {
      if ((error as NbdeltaError).code !== 'no-space' || tries === 1000) throw error
    }
  }
}

/** Random requests, one after the other or some at once over grains of their own, against plain arrays. */
async function mixed(seed: number, log: MemoryDisk): Promise<string | undefined> {
  const random = seededRandom(seed)
  let { volume, clock, disks, points } = await open(log)
  const now = Buffer.alloc(SIZE)
  const kept: { name: string, content: Buffer }[] = []
  const judge = async (what: string): Promise<string | undefined> => {
    if (!(await readAll(volume)).equals(now)) return `${what}: live is not what was written`
    for (const { name, content } of kept) {
      const point = volume.points.open(name)
      const same = (await readAll(point)).equals(content)
      await point.close()
      if (!same) return `${what}: ${name} is not what it was`
    }
    return undefined
  }
  for (let step = 0; step < 60; step++) {
    const roll = random(20)
    if (roll < 12) {
      const running: Pending[] = []
      for (let i = random(3), at = random(3); i >= 0 && at < GRAINS; i--) {
        const grains = 1 + random(Math.min(4, GRAINS - at))
        const skip = random(4) === 0 ? 512 * random(8) : 0
        const data = Buffer.alloc(grains * GRAIN - skip, 1 + random(255))
        const place = at * GRAIN + skip
        data.copy(now, place)
        running.push(stubbornly(() => volume.write(place, data.length, data, 0)))
        at += grains + random(3)
      }
      await Promise.all(running)
    } else if (roll < 13) {
      const at = random(GRAINS)
      now.fill(0, at * GRAIN, (at + 1) * GRAIN)
      const trim = random(2) === 0
      await stubbornly(() => trim ? volume.trim(at * GRAIN, GRAIN) : volume.zero(at * GRAIN, GRAIN, SLOW))
    } else if (roll < 15) {
      const kind = random(4) ? 'snapshot' : 'bookmark'
      await stubbornly(() => volume.points.create({ name: `p${step}`, kind }))
      if (kind === 'snapshot') kept.push({ name: `p${step}`, content: Buffer.from(now) })
    } else if (roll < 16) await stubbornly(() => volume.flush())
    else if (roll < 18) await clock.advance([20, 60, 11_000][random(3)])
    else if (roll < 19) {
      // A fork refuses nothing.
      const left = { disks: killed(disks), points: points.fork() }
      volume.close().catch(() => undefined)
      await turn()
      ;({ disks, points } = left)
      clock = new ManualClock()
      volume = await openOn(disks, SIZE, { clock, points })
    }
    const wrong = await judge(`step ${step}`)
    if (wrong) return wrong
  }
  await clock.advance(1000)
  const wrong = await judge('at the end')
  await volume.close()
  return wrong
}

t.test('mixed with everything else, at once and late, through kills', async t => {
  for (let i = 0; i < RUNS && t.passing(); i++) {
    t.equal(await mixed(SEED + i, i % 2 ? new MemoryDisk(LOG_BYTES) : new LateDisk(LOG_BYTES, SEED + i)), undefined, `seed ${SEED + i}`)
  }
})

t.test('on a log that refuses what it has no room for', async t => {
  for (let i = 0; i < RUNS / 2 && t.passing(); i++) {
    t.equal(await mixed(SEED + i, new RefusingDisk(LOG_BYTES, SEED + i)), undefined, `seed ${SEED + i}`)
  }
})
