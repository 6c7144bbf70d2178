/**
 * A story of a mirror, to a volume of the same store or to a peer's: writes, snapshots, restores, sizes, cycles, verifications, splits,
 * resyncs and reversals; the mirror is deleted and made anew with other settings, or taken over at the peer's. In some lives disks of
 * one site or of both fail for a while; what fails then may have happened or not. What must be found when the power has failed is
 * mirror-judge.ts's.
 */
import fs from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { NbdeltaError } from '../../src/device/errors.js'
import { syncFolder } from '../../src/device/sync-folder.js'
import { type Random, seededRandom } from '../../src/device/testing.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { contentOf, SECTOR } from '../volume/storm-model.js'
import { Faults } from './faults.js'
import { type Left, leftOf } from './folder-states.js'
import type { Tale } from './lives.js'
import { judgePair, pairOf } from './mirror-judge.js'
import { Sites } from './mirror-sites.js'
import {
  type Apart, apartAt, declaredNow, freshPair, GRAIN, IN_GRAIN, isOne, letGo, type Pair, type PairNote, withSource,
} from './mirror-world.js'
import type { Change, Recorded, RecordedFolder } from './recorded-folder.js'
import { contentsOf, durable, exactly, type Sectors } from './sectors.js'

const GRAINS = 10
const POINTS_MAX = 3
const STEPS = 18
const PAUSES_MS = [0, 0, 2, 15]
/** One life in so many, and how often disks begin to fail in it, and are in order again. */
const STORMY_EVERY = 3
const FAIL_EVERY = 5
const CALM_EVERY = 5
const KINDS = ['periodic', 'periodic', 'async', 'sync'] as const

export const mirrorTale: Tale<Pair, PairNote> = {
  tell: (folder, random, recorded, world, serial) => new MirrorStory(folder, random, recorded, world, serial).run(STEPS),
  recover: async (folder, random) => {
    const sites = await Sites.open(folder).catch(() => undefined)
    sites?.start()
    await sleep(random(30))
    await sites?.close()
  },
  judge: async (folder, notes, ending, random, { spared }) => {
    const last = notes.at(-1)
    if (!last) return { world: undefined }
    const isCut = (place: string): boolean => ending === 'cut' && place !== spared
    const verdict = await judgePair(folder, last.worlds, isCut, random).catch((error: Error) => String(error.stack))
    return typeof verdict === 'string' ? `${last.text}: ${verdict}` : verdict
  },
  left: (history, position, ending, random) => {
    return ending === 'cut' && random(2) === 0 ? leftOfOne(history, position, random(2) === 0 ? 'a' : 'b', random) : leftOf(history, position, ending, random)
  },
}

/** The power fails at one of the two; the other one is killed. */
function leftOfOne(history: readonly Recorded[], position: number, hit: string, random: Random): Left {
  const isHit = new Map<number, boolean>()
  const isOf = (change: Change): boolean | undefined => {
    if (change.what === 'note') return undefined
    if (change.what === 'make') isHit.set(change.id, change.within === 0 ? change.name === hit : isHit.get(change.within)!)
    const id = 'file' in change ? change.file : change.id
    return isHit.get(id)
  }
  const whose = new Map(history.map(one => [one, isOf(one.change)]))
  const cut = leftOf(history.filter(one => whose.get(one) !== false), position, 'cut', random)
  const killed = leftOf(history.filter(one => whose.get(one) !== true), position, 'killed', random)
  return {
    paths: new Map([...cut.paths, ...killed.paths]), folders: new Set([...cut.folders, ...killed.folders]),
    links: new Map([...cut.links, ...killed.links]), position: cut.position, story: `${cut.story}, at ${hit} alone`,
    spared: hit === 'a' ? 'b' : 'a',
    history: [...cut.history, ...killed.history].sort((one, other) => one.begun - other.begun),
  }
}

class MirrorStory {
  readonly #random: Random
  readonly #folder: string
  readonly #recorded: RecordedFolder
  #world: Pair
  #sites!: Sites
  #serial: number
  readonly #isStormy: boolean
  /** Disks fail now. */
  #faults: Faults | undefined
  /** Since something has failed: what it may be. */
  #candidates: readonly Pair[] | undefined

  constructor(folder: string, random: Random, recorded: RecordedFolder, world: Pair | undefined, serial: number) {
    this.#random = random
    this.#folder = folder
    this.#recorded = recorded
    // What ends before anything is done has to be that.
    if (world) recorded.note({ text: 'begin', worlds: [world] } satisfies PairNote)
    this.#world = world ?? freshPair(GRAINS * IN_GRAIN)
    this.#serial = serial
    this.#isStormy = random(STORMY_EVERY) === 0
  }

  async run(steps: number): Promise<void> {
    for (const place of ['a', 'b']) await fs.promises.mkdir(join(this.#folder, place), { recursive: true })
    await syncFolder(this.#folder)
    this.#sites = await Sites.open(this.#folder)
    const sizeBytes = this.#world.source.now.length * SECTOR
    if (!this.#sites.a.get('v')) await this.#sites.a.createVolume({ name: 'v', sizeBytes, grainBytes: GRAIN })
    await this.#begin()
    for (let i = 0; i < steps; i++) {
      await this.#weather()
      if (!this.#candidates) await this.#step()
      await new Promise<void>(resolve => { setTimeout(resolve, PAUSES_MS[this.#random(PAUSES_MS.length)]) })
    }
    if (this.#faults) await this.#calm(this.#faults)
    await this.#do('close', [this.#world], () => this.#closed())
  }

  /** The sites are open. */
  async #begin(): Promise<void> {
    this.#sites.start()
    if (this.#world.isReleased && !this.#world.isEnding) await this.#splitAgain()
  }

  async #closed(): Promise<void> {
    await this.#sites.close()
    const { opened } = this.#recorded
    if (opened.length > 0) throw new Error(`the stores are closed, and these are open: ${opened.join(', ')}`)
  }

  /** Between two steps: disks begin to fail, or are in order again. */
  async #weather(): Promise<void> {
    if (!this.#faults) {
      if (!this.#isStormy || this.#random(FAIL_EVERY) > 0) return
      const faults = this.#faults = new Faults(seededRandom(this.#random(2 ** 31)))
      const place = (['a/', 'b/', ''] as const)[this.#random(3)]!
      this.#recorded.faults = {
        failureOf: (what, name) => name.startsWith(place) ? faults.failureOf(what, name) : undefined,
        isHarsh: faults.isHarsh,
      }
    } else if (this.#candidates || this.#random(CALM_EVERY) === 0) await this.#calm(this.#faults)
  }

  async #calm({ kind }: Faults): Promise<void> {
    this.#faults = this.#recorded.faults = undefined
    await this.#closed()
    this.#sites = await Sites.open(this.#folder)
    const verdict = await pairOf(this.#sites, this.#candidates ?? [this.#world], () => false)
    if (typeof verdict === 'string') throw new Error(`behind failing disks (${kind}): ${verdict}`)
    this.#candidates = undefined
    this.#world = verdict.world
    this.#recorded.note({ text: `disks failed (${kind})`, worlds: [this.#world] } satisfies PairNote)
    await this.#begin()
  }

  /** @param look what it has become, where that is known only then */
  async #do(text: string, worlds: readonly Pair[], work: () => Promise<unknown>, look?: () => Promise<Pair>): Promise<void> {
    this.#recorded.note({ text, worlds: [this.#world, ...worlds] } satisfies PairNote)
    try {
      await work()
      this.#world = await look?.() ?? worlds.at(-1)!
    } catch (error) {
      if (!(error instanceof NbdeltaError)) throw error
      if (this.#faults) {
        this.#candidates = [this.#world, ...worlds]
        return
      }
      // A snapshot that a restore or the mirror has pinned is not deleted: nothing has changed.
      if (error.code !== 'busy') throw error
    }
    this.#recorded.note({ text: `${text}: over`, worlds: [this.#world] } satisfies PairNote)
  }

  get #source(): StoreVolume { return this.#sites.a.get('v')! }

  async #step(): Promise<void> {
    const { phase } = this.#world
    const roll = this.#random(24)
    if (roll < 7) return this.#write()
    if (roll < 8) return this.#do('flush', [{ ...this.#world, source: durable(this.#world.source) }], async () => { await this.#source.flush() })
    if (roll < 10) return this.#snapshot()
    if (roll < 12) return this.#restore()
    if (this.#world.isEnding) return this.#deleteMirror()
    switch (phase) {
      case 'none': return this.#create()
      case 'fenced': return this.#promote()
      case 'promoted': return roll < 19 ? this.#writeApart() : this.#deleteMirror()
      case 'paired': return this.#stepPaired(roll)
      case 'split': return roll < 18 ? this.#writeApart() : roll < 20 ? this.#resync() : roll < 22 ? this.#reverse()
        : roll < 23 ? this.#promote() : this.#deleteMirror()
    }
  }

  async #stepPaired(roll: number): Promise<void> {
    if (roll < 16) return this.#sync()
    if (roll < 19) return this.#split()
    if (roll < 20) return this.#verify()
    if (roll < 21) return this.#pause()
    if (roll < 22) return this.#resize()
    return roll < 23 ? this.#promote() : this.#deleteMirror()
  }

  /** A write or zeros, somewhere. */
  #wish<S extends Sectors>(side: S): { readonly after: S, run(volume: StoreVolume): Promise<void> } {
    const random = this.#random
    const { length } = side.now
    const start = random(2) === 0 ? random(length) : random(Math.ceil(length / IN_GRAIN)) * IN_GRAIN
    const end = Math.min(length, start + (random(2) === 0 ? 1 + random(3 * IN_GRAIN) : IN_GRAIN))
    const value = random(4) === 0 ? 0 : ++this.#serial
    const [isIn, bytes] = [(sector: number) => sector >= start && sector < end, (end - start) * SECTOR]
    return {
      after: {
        ...side, now: side.now.map((before, sector) => isIn(sector) ? value : before),
        sectors: side.sectors.map((values, sector) => isIn(sector) ? new Set([...values, value]) : values),
      },
      run: async volume => {
        if (value === 0) await volume.zero(start * SECTOR, bytes, { allocate: false, fast: false })
        else await volume.write(start * SECTOR, bytes, contentOf(value, bytes), 0)
      },
    }
  }

  async #write(): Promise<void> {
    const { after, run } = this.#wish(this.#world.source)
    await this.#do('write', [withSource(this.#world, after)], () => run(this.#source))
  }

  async #snapshot(): Promise<void> {
    const { points, source } = this.#world
    if (points.size >= POINTS_MAX) {
      const [name] = [...points.keys()]
      const rest = new Map([...points].slice(1))
      return this.#do(`delete ${name}`, [{ ...this.#world, points: rest }], () => this.#source.points.delete(name!))
    }
    const name = `p${++this.#serial}`
    await this.#do(`snapshot ${name}`, [{ ...this.#world, source: durable(source), points: new Map([...points, [name, source.now]]) }],
      () => this.#source.points.create({ name, kind: 'snapshot' }))
  }

  async #restore(): Promise<void> {
    const { points, source } = this.#world
    const [name, content] = [...points][this.#random(points.size)] ?? []
    if (name === undefined || !content) return
    const now = source.now.map((value, sector) => content[sector] ?? value)
    const sectors = source.sectors.map((values, sector) => new Set([...values, now[sector]!]))
    await this.#do(`restore ${name}`, [withSource(this.#world, { now, sectors })], async () => {
      const { finished } = await this.#source.restore({ from: name, ...this.#random(2) === 0 ? { bytesPerSecond: 20 * GRAIN } : {} })
      finished.catch(() => undefined)
    })
  }

  async #resize(): Promise<void> {
    const { source } = this.#world
    const length = (GRAINS - 3 + this.#random(6)) * IN_GRAIN - (this.#random(3) === 0 ? this.#random(IN_GRAIN) : 0)
    const now = Array.from({ length }, (_, sector) => source.now[sector] ?? 0)
    const sectors = Array.from({ length }, (_, sector) => source.sectors[sector] ?? new Set([0]))
    await this.#do(`resize ${length}`, [withSource(this.#world, { now, sectors })], () => this.#sites.a.resizeVolume('v', length * SECTOR))
  }

  async #create(): Promise<void> {
    await this.#do('what was left goes', [{ ...this.#world, apart: undefined }], () => this.#sites.clear())
    if (this.#candidates) return
    const target = this.#random(2) === 0 ? { target: 'w' } : { target: 'nbdelta://b/x', secretFile: '/none' }
    const [mode, keeps] = [KINDS[this.#random(KINDS.length)]!, this.#random(3) === 0 ? 1 + this.#random(2) : 0]
    const after: Pair = {
      ...this.#world, phase: 'paired', isStreaming: mode !== 'periodic', keeps, isPaused: false, declared: undefined, apart: undefined,
      kept: undefined,
    }
    await this.#do(`mirror ${mode} to ${target.target}`, [after], () => this.#sites.mirrors.create({
      name: 'm', volume: 'v', ...target, intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, overwrite: false, mode, keepSnapshots: keeps,
    }))
  }

  async #sync(): Promise<void> {
    await this.#do('sync', [declaredNow(this.#world)], () => this.#sites.mirrors.get('m').sync())
  }

  async #verify(): Promise<void> {
    if (this.#sites.mirrors.get('m').state.phase !== 'paired') return
    await this.#do('verify', [declaredNow(this.#world)], async () => {
      const found = await this.#sites.mirrors.get('m').verify()
      if (found.length > 0) throw new Error(`verification found differences at ${found[0]!.offset}`)
    })
  }

  async #pause(): Promise<void> {
    const isPaused = !this.#world.isPaused
    const mirror = this.#sites.mirrors.get('m')
    await this.#do(isPaused ? 'pause' : 'resume', [{ ...this.#world, isPaused }], () => isPaused ? mirror.pause() : mirror.resume())
  }

  async #split(): Promise<void> {
    const { now } = this.#world.source
    // A first copy, or a resync, has to be complete.
    if (this.#sites.mirrors.get('m').state.phase !== 'paired') return
    await this.#do('split', [{ ...declaredNow(this.#world), phase: 'split', apart: apartAt(now) }],
      () => this.#sites.mirrors.get('m').split({ atOnce: false }))
  }

  async #splitAgain(): Promise<void> {
    const now = await contentsOf(this.#sites.target().volume)
    await this.#do('split again', [{ ...this.#world, phase: 'split', isReleased: false, apart: apartAt(now) }],
      () => this.#sites.mirrors.get('m').split({ atOnce: true }))
  }

  async #deleteMirror(): Promise<void> {
    const apart = this.#world.apart ?? letGo(this.#world, this.#world.declared !== undefined)
    this.#world = { ...this.#world, isEnding: true }
    const gone: Pair = { ...this.#world, phase: 'none', isPaused: false, isEnding: false, apart, kept: undefined }
    const between: readonly Pair[] = this.#world.phase === 'paired' ? [{ ...gone, phase: 'split', isEnding: true }] : []
    await this.#do('delete the mirror', [...between, gone], () => this.#sites.mirrors.delete('m'))
  }

  /** At the peer's: its mirror's server is refused from then on. */
  async #promote(): Promise<void> {
    const { volume, shown } = this.#sites.target()
    if (!this.#sites.isFar || (this.#world.phase === 'paired' && !shown)) return
    const fenced: Pair = { ...this.#world, phase: 'fenced', apart: this.#world.apart ?? letGo(this.#world, true), kept: undefined }
    await this.#do('promote', [fenced, { ...fenced, phase: 'promoted' }], () => this.#sites.secondaries.promote('x'), async () => {
      const promoted: Pair = { ...fenced, phase: 'promoted' }
      const { wholeFrom } = fenced.apart!
      if (typeof wholeFrom !== 'number') return promoted
      const now = await contentsOf(volume)
      if (!isOne(now, promoted, wholeFrom)) throw new Error('what was promoted is no declared point')
      return { ...promoted, apart: apartAt(now) }
    })
  }

  async #writeApart(): Promise<void> {
    const { apart } = this.#world
    const { volume } = this.#sites.target()
    if (this.#random(4) === 0) return this.#do('flush the target', [{ ...this.#world, apart: durable(apart!) }], async () => { await volume.flush() })
    const { after, run } = this.#wish<Apart>(apart!)
    await this.#do('write to the target', [{ ...this.#world, apart: { ...after, isOwn: true } }], () => run(volume))
  }

  async #resync(): Promise<void> {
    const { apart } = this.#world
    await this.#do('resync', [{ ...this.#world, phase: 'paired', apart: undefined, kept: apart!.isOwn ? apart : undefined }],
      () => this.#sites.mirrors.get('m').beginResync({ whole: this.#random(5) === 0 }))
  }

  async #reverse(): Promise<void> {
    const { apart, views } = this.#world
    const { now } = apart!
    const restored: Pair = { ...this.#world, source: { now, sectors: exactly(now) }, views: [...views, now], apart: durable(apart!) }
    const after: Pair = { ...restored, phase: 'paired', apart: undefined, kept: undefined, declared: views.length }
    await this.#do('reverse', [restored, after], async () => {
      const { finished } = await this.#sites.mirrors.together(['m']).reverse()
      finished.catch(() => undefined)
    })
  }
}
