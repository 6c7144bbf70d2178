// Random requests against a plain array: parts of grains, trims, zeroes, resizes, time passing, clean and unclean opens.
import t from 'tap'
import { ManualClock, MemoryDisk, seededRandom, type Random } from '../../src/device/testing.js'
import type { Volume } from '../../src/volume/volume.js'
import { FAST, freshDisks, GRAIN, KEEP, killed, LateDisk, openOn, readAll, SLOW, SMALL_JOURNAL_BYTES, type Disks } from './lab.js'

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
const STEPS = 600

class Twin {
  constructor(
    public volume: Volume, public disks: Disks, public model: Buffer, readonly grainBytes: number, readonly random: Random,
    readonly clock: ManualClock,
  ) {}

  place(): [offset: number, length: number] {
    const unit = [1, 512, this.grainBytes][this.random(3)]
    const units = Math.floor(this.model.length / unit)
    const from = this.random(units)
    return [from * unit, (1 + this.random(Math.min(units - from, [3, 12, 200][this.random(3)]))) * unit]
  }

  async step(): Promise<string> {
    const roll = this.random(100)
    if (roll < 40) return this.write(...this.place())
    if (roll < 55) return this.zero(...this.place(), [SLOW, SLOW, FAST, KEEP][this.random(4)])
    if (roll < 70) return this.trim(...this.place())
    if (roll < 76) { await this.volume.flush(); return 'flush' }
    if (roll < 84) { await this.clock.advance([30, 300, 12_000][this.random(3)]); return 'wait' }
    if (roll < 90) return this.resize((12 + this.random(60)) * 1536)
    if (roll < 94) return this.reopen(true)
    if (roll < 97) return this.reopen(false)
    return this.many()
  }

  async write(offset: number, length: number): Promise<string> {
    const data = Buffer.alloc(length, 1 + this.random(255))
    await this.volume.write(offset, length, data, 0)
    data.copy(this.model, offset)
    return `write ${offset} ${length}`
  }

  async zero(offset: number, length: number, mode: typeof SLOW): Promise<string> {
    try {
      await this.volume.zero(offset, length, mode)
      this.model.fill(0, offset, offset + length)
    } catch (error) {
      if ((error as { code?: string }).code !== 'not-fast') throw error
    }
    return `zero ${offset} ${length} ${JSON.stringify(mode)}`
  }

  async trim(offset: number, length: number): Promise<string> {
    await this.volume.trim(offset, length)
    const first = Math.ceil(offset / this.grainBytes) * this.grainBytes
    const end = offset + length
    const last = end === this.model.length ? end : Math.floor(end / this.grainBytes) * this.grainBytes
    // A trim is a hint: whole grains read as zeros or as before, and never as anything else.
    const found = await readAll(this.volume)
    for (let at = first; at < last; at += this.grainBytes) {
      const to = Math.min(last, at + this.grainBytes)
      if (found.subarray(at, to).every(byte => byte === 0)) this.model.fill(0, at, to)
    }
    return `trim ${offset} ${length}`
  }

  async resize(sizeBytes: number): Promise<string> {
    await this.volume.resize(sizeBytes, async () => undefined)
    const next = Buffer.alloc(sizeBytes)
    this.model.copy(next)
    this.model = next
    return `resize ${sizeBytes}`
  }

  async reopen(clean: boolean): Promise<string> {
    if (clean) await this.volume.close()
    const { live, map, journal } = killed(this.disks)
    if (clean && !live.toBuffer().equals(this.model)) throw new Error('live at rest is not the volume as a plain raw image')
    this.disks = { live, map, journal }
    this.volume = await openOn(this.disks, this.model.length, { grainBytes: this.grainBytes, clock: this.clock })
    return clean ? 'close and open' : 'kill and open'
  }

  /** Several at once, each in its own part. */
  async many(): Promise<string> {
    const share = Math.floor(this.model.length / 4)
    await Promise.all([0, 1, 2, 3].map(async part => {
      const offset = part * share + this.random(share - 1)
      await this.write(offset, 1 + this.random(part * share + share - offset))
    }))
    return 'many'
  }
}

const KINDS = [['small grains', GRAIN, false], ['large grains', 16384, false], ['late disk', GRAIN, true]] as const
for (const [name, grainBytes, late] of KINDS) {
  t.test(name, async t => {
    t.comment(`seed ${SEED}`)
    for (let run = 0; run < 6; run++) {
      const random = seededRandom(SEED + run)
      const sizeBytes = (20 + random(40)) * 1536
      const live = late ? new LateDisk(sizeBytes, SEED) : new MemoryDisk(sizeBytes)
      const disks = await freshDisks({ sizeBytes, grainBytes, journalBytes: SMALL_JOURNAL_BYTES, live })
      const clock = new ManualClock()
      const volume = await openOn(disks, sizeBytes, { grainBytes, clock })
      const twin = new Twin(volume, disks, Buffer.alloc(sizeBytes), grainBytes, random, clock)
      const story: string[] = []
      for (let step = 0; step < STEPS; step++) {
        story.push(await twin.step())
        if ((await readAll(twin.volume)).equals(twin.model)) continue
        t.fail(`seed ${SEED}, run ${run}, step ${step}: ${story.slice(-12).join('; ')}`)
        return
      }
      await twin.volume.close()
    }
    t.pass(`${6 * STEPS} steps`)
  })
}
