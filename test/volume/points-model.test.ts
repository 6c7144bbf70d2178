// Snappoints against whole copies: random writes, trims, zeroes, resizes, points made and deleted in any order, clean and unclean opens.
import t from 'tap'
import { ManualClock, MemoryDisk, seededRandom, type Random } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { FAST, freshDisks, GRAIN, KEEP, killed, LateDisk, openOn, readAll, SLOW, SMALL_JOURNAL_BYTES, type Disks } from './lab.js'
import { MemoryPoints } from './point-lab.js'

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
const STEPS = Number(process.env.STEPS ?? 200)

interface Copy { readonly name: string, readonly kind: 'snapshot' | 'bookmark', readonly content: Buffer }

class Model {
  points: Copy[] = []
  names = 0
  constructor(
    public volume: Volume, public disks: Disks, public store: MemoryPoints, public live: Buffer, readonly random: Random,
    readonly clock: ManualClock, readonly grainBytes: number,
  ) {}

  async step(): Promise<string> {
    const roll = this.random(100)
    if (roll < 30) return this.write(...this.place())
    if (roll < 40) return this.zero(...this.place(), [SLOW, SLOW, FAST, KEEP][this.random(4)])
    if (roll < 52) return this.trim(...this.place())
    if (roll < 55) { await this.volume.flush(); return 'flush' }
    if (roll < 63) { await this.clock.advance([30, 300, 12_000][this.random(3)]); return 'wait' }
    if (roll < 68) return this.resize((12 + this.random(60)) * 1536)
    if (roll < 71) return this.reopen(true)
    if (roll < 75) return this.reopen(false)
    if (roll < 77) return this.many()
    if (roll < 88) return this.create()
    if (roll < 97) return this.delete()
    await this.volume.points.settled()
    return 'settled'
  }

  place(): [offset: number, length: number] {
    const unit = [1, 512, this.grainBytes][this.random(3)]
    const units = Math.floor(this.live.length / unit)
    const from = this.random(units)
    return [from * unit, (1 + this.random(Math.min(units - from, [3, 12, 200][this.random(3)]))) * unit]
  }

  async write(offset: number, length: number): Promise<string> {
    const data = Buffer.alloc(length, 1 + this.random(255))
    await this.volume.write(offset, length, data, 0)
    data.copy(this.live, offset)
    return `write ${offset} ${length}`
  }

  async zero(offset: number, length: number, mode: typeof SLOW): Promise<string> {
    try {
      await this.volume.zero(offset, length, mode)
      this.live.fill(0, offset, offset + length)
    } catch (error) {
      if ((error as { code?: string }).code !== 'not-fast') throw error
    }
    return `zero ${offset} ${length} ${JSON.stringify(mode)}`
  }

  async trim(offset: number, length: number): Promise<string> {
    await this.volume.trim(offset, length)
    const end = offset + length
    const last = end === this.live.length ? end : Math.floor(end / this.grainBytes) * this.grainBytes
    const found = await readAll(this.volume)
    for (let at = Math.ceil(offset / this.grainBytes) * this.grainBytes; at < last; at += this.grainBytes) {
      const to = Math.min(last, at + this.grainBytes)
      if (found.subarray(at, to).every(byte => byte === 0)) this.live.fill(0, at, to)
    }
    return `trim ${offset} ${length}`
  }

  async resize(sizeBytes: number): Promise<string> {
    await this.volume.resize(sizeBytes, async () => undefined)
    const next = Buffer.alloc(sizeBytes)
    this.live.copy(next)
    this.live = next
    return `resize ${sizeBytes}`
  }

  async many(): Promise<string> {
    const share = Math.floor(this.live.length / 4)
    await Promise.all([0, 1, 2, 3].map(async part => {
      const offset = part * share + this.random(share - 1)
      await this.write(offset, 1 + this.random(part * share + share - offset))
    }))
    return 'many'
  }

  async create(): Promise<string> {
    if (this.points.length >= 7) return this.delete()
    const kind = this.random(3) === 0 ? 'bookmark' : 'snapshot'
    const name = `p${++this.names}`
    await this.volume.points.create({ name, kind })
    this.points.push({ name, kind, content: Buffer.from(this.live) })
    return `create ${kind} ${name}`
  }

  async delete(): Promise<string> {
    if (this.points.length === 0) return 'nothing to delete'
    const [{ name }] = this.points.splice(this.random(this.points.length), 1)
    await this.volume.points.delete(name)
    return `delete ${name}`
  }

  async reopen(clean: boolean): Promise<string> {
    if (clean) await this.volume.close()
    const { live, map, journal } = killed(this.disks)
    this.disks = { live, map, journal }
    this.store = this.store.fork()
    this.volume = await openOn(this.disks, this.live.length, { grainBytes: this.grainBytes, clock: this.clock, points: this.store })
    return clean ? 'close and open' : 'kill and open'
  }

  /** What is wrong, in words. */
  async wrong(): Promise<string | undefined> {
    const live = await readAll(this.volume)
    if (!live.equals(this.live)) return `live differs at ${firstDifference(live, this.live)}`
    const listed = this.volume.points.list().map(({ name }) => name)
    if (listed.join() !== this.points.map(({ name }) => name).join()) return `points are ${listed.join()}`
    for (const { name, kind, content } of this.points) {
      if (kind === 'snapshot') {
        const device = this.volume.points.open(name)
        const found = await readAll(device)
        await device.close()
        if (!found.equals(content)) return `${name} differs at ${firstDifference(found, content)}`
      }
      const changed = new Set(this.volume.points.changedRuns(name).flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i)))
      for (let grain = 0; grain * this.grainBytes < Math.min(this.live.length, content.length); grain++) {
        const [from, to] = [grain * this.grainBytes, Math.min((grain + 1) * this.grainBytes, this.live.length, content.length)]
        if (!changed.has(grain) && !content.subarray(from, to).equals(this.live.subarray(from, to))) return `grain ${grain} is not marked since ${name}`
      }
    }
    return undefined
  }
}

function firstDifference(a: Buffer, b: Buffer): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) if (a[i] !== b[i]) return i
  return -1
}

for (const [name, grainBytes, late] of [['small grains', GRAIN, false], ['large grains', 16384, false], ['late disk', GRAIN, true]] as const) {
  t.test(name, async t => {
    t.comment(`seed ${SEED}`)
    for (let run = 0; run < 8; run++) {
      const random = seededRandom(SEED + run)
      const sizeBytes = (20 + random(40)) * 1536
      const live = late ? new LateDisk(sizeBytes, SEED) : new MemoryDisk(sizeBytes)
      const disks = await freshDisks({ sizeBytes, grainBytes, journalBytes: SMALL_JOURNAL_BYTES, live })
      const clock = new ManualClock()
      const points = new MemoryPoints(grainBytes)
      const volume = await openOn(disks, sizeBytes, { grainBytes, clock, points })
      const model = new Model(volume, disks, points, Buffer.alloc(sizeBytes), random, clock, grainBytes)
      const story: string[] = []
      for (let step = 0; step < STEPS; step++) {
        let wrong: string | undefined
        try {
          story.push(await model.step())
          wrong = await model.wrong()
        } catch (error) {
          wrong = error instanceof Error ? error.stack : String(error)
        }
        if (wrong === undefined) continue
        t.fail(`seed ${SEED}, run ${run}, step ${step}: ${story.slice(-14).join('; ')}: ${wrong}`)
        return
      }
      await model.volume.close()
    }
    t.pass(`${8 * STEPS} steps`)
  })
}
