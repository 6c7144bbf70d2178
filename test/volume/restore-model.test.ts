// Restores and clones against whole copies: random writes, trims, zeroes, resizes, snapshots, deletions, restores of all and of
// ranges with the copier running, clean and unclean opens. After each step everything is compared, byte by byte.
import t from 'tap'
import { ManualClock, MemoryDisk, seededRandom, type Random } from '../../src/device/testing.js'
import { FAST, GRAIN, KEEP, LateDisk, readAll, SLOW } from './lab.js'
import { Rig, settle } from './inherit-lab.js'

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
const STEPS = Number(process.env.STEPS ?? 150)
const RUNS = Number(process.env.RUNS ?? 2)

interface Copy { readonly name: string, readonly content: Buffer }

class Model {
  points: Copy[] = []
  names = 0
  restores = 0
  copying = 0
  constructor(readonly rig: Rig, public live: Buffer, readonly random: Random, readonly grainBytes: number) {}

  get volume() { return this.rig.volume }

  async step(): Promise<string> {
    const roll = this.random(100)
    if (this.volume.inheriting) this.copying++
    if (roll < 30) return this.write(...this.place())
    if (roll < 38) return this.zero(...this.place(), [SLOW, SLOW, FAST, KEEP][this.random(4)])
    if (roll < 48) return this.trim(...this.place())
    if (roll < 50) { await this.volume.flush(); return 'flush' }
    if (roll < 60) { await this.rig.clock.advance([30, 300, 12_000][this.random(3)]); return 'wait' }
    if (roll < 63) return this.resize((12 + this.random(60)) * 1536)
    if (roll < 66) return this.reopen(true)
    if (roll < 70) return this.reopen(false)
    if (roll < 74) return this.many()
    if (roll < 82) return this.create()
    if (roll < 88) return this.delete()
    return this.restore()
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
    await this.rig.resize(sizeBytes)
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
    const name = `p${++this.names}`
    await this.volume.points.create({ name, kind: 'snapshot' })
    this.points.push({ name, content: Buffer.from(this.live) })
    return `create ${name}`
  }

  async delete(): Promise<string> {
    if (this.points.length === 0) return 'nothing to delete'
    const at = this.random(this.points.length)
    const { name } = this.points[at]
    try {
      await this.volume.points.delete(name)
      this.points.splice(at, 1)
    } catch (error) {
      if ((error as { code?: string }).code !== 'busy') throw error
      return `busy ${name}`
    }
    return `delete ${name}`
  }

  async restore(): Promise<string> {
    if (this.points.length === 0) return 'nothing to restore'
    const { name, content } = this.points[this.random(this.points.length)]
    const [offset, length] = this.random(2) === 0 ? [0, this.live.length] : this.place()
    const pace = [undefined, this.grainBytes, 20 * this.grainBytes][this.random(3)]
    const before = Buffer.from(this.live)
    await settle(this.rig.clock, this.volume.restore({ from: name, offset, length, ...(pace ? { bytesPerSecond: pace } : {}) }))
    if (offset < content.length) content.copy(this.live, offset, offset, Math.min(content.length, offset + length))
    const undo = this.volume.points.list().at(-1)!
    if (undo.labels.auto === 'undo' && !this.points.some(point => point.name === undo.name)) this.points.push({ name: undo.name, content: before })
    this.restores++
    return `restore ${name} ${offset} ${length} ${pace}`
  }

  async reopen(clean: boolean): Promise<string> {
    await this.rig.reopen(clean)
    return clean ? 'close and open' : 'kill and open'
  }

  /** What is wrong, in words. */
  async wrong(): Promise<string | undefined> {
    const live = await readAll(this.volume)
    if (!live.equals(this.live)) return `live differs at ${firstDifference(live, this.live)}`
    const listed = this.volume.points.list().map(({ name }) => name)
    if (listed.join() !== this.points.map(({ name }) => name).join()) return `points are ${listed.join()}`
    for (const { name, content } of this.points) {
      const device = this.volume.points.open(name)
      const found = await readAll(device)
      await device.close()
      if (!found.equals(content)) return `${name} differs at ${firstDifference(found, content)}`
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
    let restores = 0
    let copying = 0
    for (let run = 0; run < RUNS; run++) {
      const random = seededRandom(SEED + run)
      const sizeBytes = (20 + random(40)) * 1536
      const live = late ? new LateDisk(sizeBytes, SEED) : new MemoryDisk(sizeBytes)
      const rig = await Rig.open({ sizeBytes, grainBytes, live, clock: new ManualClock() })
      const model = new Model(rig, Buffer.alloc(sizeBytes), random, grainBytes)
      const story: string[] = []
      for (let step = 0; step < STEPS; step++) {
        let wrong: string | undefined
        try {
          story.push(await model.step())
          wrong = await model.wrong()
        } catch (error) {
          wrong = (error as Error).stack
        }
        if (wrong === undefined) continue
        t.fail(`run ${run}, step ${step}: ${wrong}`, { story: story.slice(-25) })
        return
      }
      await rig.volume.close()
      restores += model.restores
      copying += model.copying
    }
    t.ok(restores > 0 && copying > 0, `${restores} restores, ${copying} steps while one copied`)
  })
}
