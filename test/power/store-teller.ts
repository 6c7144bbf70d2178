/**
 * Whoever lives a story of a store (store-story.ts): does one thing after the other, and notes what there must be. In some lives disks
 * fail for a while (faults.ts). What fails then may have happened or not: the store is opened anew, with disks in order, and has to
 * be one of both.
 */
import { systemClock } from '../../src/device/clock.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { type Random, seededRandom } from '../../src/device/testing.js'
import { openStore, type Store } from '../../src/volume/open-store.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { Faults } from './faults.js'
import type { RecordedFolder } from './recorded-folder.js'
import { contentsOf } from './sectors.js'
import { worldOf } from './store-judge.js'
import { type Live, type Maybe, type Point, type World, withoutGivenUp, withVolume } from './store-world.js'

export interface StoryNote { readonly text: string, readonly worlds: readonly Maybe[] }

export const GRAIN = 4096
export const VOLUMES_MAX = 3
export const POINTS_MAX = 5
const REFUSALS = ['busy', 'wrong-state', 'bad-argument', 'exists', 'no-space']
/** One life in so many, and how often disks begin to fail in it, and are in order again. */
const STORMY_EVERY = 3
const FAIL_EVERY = 6
const CALM_EVERY = 6
const STORY_BEGINS = Date.parse('2026-03-01T00:00:00Z')

export class Teller {
  readonly random: Random
  readonly #path: string
  readonly #recorded: RecordedFolder
  #world: Maybe
  #store!: Store
  #serial: number
  /** What was done, or tried. */
  done = 0
  #wallMs = STORY_BEGINS
  readonly #isStormy: boolean
  #faults: Faults | undefined
  /** Since something has failed: what it may be. */
  #candidates: readonly World[] | undefined

  /** @param world what is there; @param serial of names: none was given out from there on */
  constructor(path: string, random: Random, recorded: RecordedFolder, world: Maybe, serial: number) {
    this.random = random
    this.#path = path
    this.#recorded = recorded
    this.#world = world
    this.#serial = serial
    this.#isStormy = random(STORMY_EVERY) === 0
    // Lives come one after the other.
    this.#wallMs += serial * 3_600_000
  }

  /** Its hours pass only when the story says so. */
  readonly clock = { ...systemClock, wallTime: (): Date => new Date(this.#wallMs) }

  get store(): Store { return this.#store }
  get world(): World { return this.#world! }
  get names(): string[] { return [...this.world.volumes.keys()] }

  /** Nothing more is done before disks are in order again. */
  get hasFailed(): boolean { return this.#candidates !== undefined }
  next(): number { return ++this.#serial }
  pass(ms: number): void { this.#wallMs += ms }
  live({ name }: Pick<StoreVolume, 'name'>): Live { return this.world.volumes.get(name)! }
  with({ name }: Pick<StoreVolume, 'name'>, live: Live): World { return withVolume(this.world, name, live) }
  one<T>(of: readonly T[]): T | undefined { return of[this.random(of.length)] }

  somePoint(volume: StoreVolume, kinds: readonly Point['kind'][] = ['snapshot', 'bookmark']): string | undefined {
    return this.one([...this.live(volume).points].filter(([, { kind }]) => kinds.includes(kind)).map(([name]) => name))
  }

  async open(after: World, create = false): Promise<void> {
    await this.do('open', [after], async () => { this.#store = await openStore({ path: this.#path, create, clock: this.clock }) })
  }

  /**
   * What is refused has changed nothing, but for a write that finds no room for all of it.
   * @param worlds that it may be from its beginning on; what it is behind it, the last one, if `look` does not tell
   */
  async do(text: string, worlds: readonly World[], work: () => Promise<unknown>, look?: () => Promise<World>): Promise<boolean> {
    if (this.#candidates) return false
    this.done++
    const failures = this.#faults?.count
    this.#note(text, [this.#world, ...worlds])
    try {
      await work()
      this.#world = await look?.() ?? worlds.at(-1)!
      return true
    } catch (error) {
      if (error instanceof NbdeltaError && this.#faults && (failures !== this.#faults.count || !REFUSALS.includes(error.code))) {
        this.#candidates = [this.world, ...worlds]
        return false
      }
      if (!(error instanceof NbdeltaError) || !REFUSALS.includes(error.code)) throw error
      if (error.code === 'no-space' && look) this.#world = await look()
      return false
    } finally {
      if (!this.#candidates) {
        this.#lookForGivenUp()
        this.#note(`${text}: over`, [this.#world])
      }
    }
  }

  /** Between two steps: disks begin to fail, or are in order again. */
  async weather(): Promise<void> {
    if (!this.#faults) {
      if (this.#isStormy && this.random(FAIL_EVERY) === 0) this.#faults = this.#recorded.faults = new Faults(seededRandom(this.random(2 ** 31)))
    } else if (this.#candidates || this.random(CALM_EVERY) === 0 || this.store.list().some(({ problem }) => problem)) await this.#calm(this.#faults)
  }

  /** However it ends. */
  async close(): Promise<void> {
    await this.#store.close().catch((error: unknown) => { if (!(error instanceof NbdeltaError)) throw error })
    const { opened } = this.#recorded
    if (opened.length > 0) throw new Error(`the store is closed, and these are open: ${opened.join(', ')}`)
  }

  async #calm({ kind }: Faults): Promise<void> {
    this.#faults = this.#recorded.faults = undefined
    await this.close()
    this.#store = await openStore({ path: this.#path, clock: this.clock })
    const verdict = await worldOf(this.#store, this.#candidates ?? [this.world], 'killed')
    if (typeof verdict === 'string') throw new Error(`behind failing disks (${kind}): ${verdict}`)
    this.#candidates = undefined
    this.#world = verdict.world
    this.#note(`disks failed (${kind})`, [this.#world])
  }

  /** Sectors from `start` on, `end` without, have got values; a part of them may have where it failed. */
  changed(volume: StoreVolume, start: number, end: number, valueOf: (sector: number) => number): Live {
    const live = this.live(volume)
    const isIn = (sector: number): boolean => sector >= start && sector < end
    return {
      ...live, now: live.now.map((before, sector) => isIn(sector) ? valueOf(sector) : before),
      sectors: live.sectors.map((values, sector) => isIn(sector) ? new Set([...values, valueOf(sector)]) : values),
    }
  }

  async foundNow(volume: StoreVolume, live: Live): Promise<World> { return this.with(volume, { ...live, now: await contentsOf(volume) }) }

  #note(text: string, worlds: readonly Maybe[]): void { this.#recorded.note({ text, worlds } satisfies StoryNote) }

  #lookForGivenUp(): void {
    if (!this.#world || !this.#store || this.#store.status !== 'open') return
    for (const [name, live] of this.#world.volumes) {
      const volume = this.#store.get(name)
      if (volume && !volume.problem) this.#world = withVolume(this.#world, name, withoutGivenUp(live, volume))
    }
  }
}
