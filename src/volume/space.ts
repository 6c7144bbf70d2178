/**
 * Space: the budget for what a volume's points keep, and what is given up, in which order, when it or the disk is full.
 *
 * Asked by whoever needs old content preserved: `during` around a request's own preserving (gate.ts, adopter.ts), `roomFor`
 * and `promise` for what is preserved later (staging.ts). All before anything is copied or answered: a request for which there
 * is no room has changed nothing. What is promised is kept without another question, so nothing that was answered is ever
 * refused by the budget. A point's file takes whole grains; the short last grain of a volume counts as a whole one.
 *
 * The order, when a request fails for want of space. It holds no lock by then, and is tried again after each step
 *   1. what is being deleted anyway gives its space back first
 *   2. drop-undo    the oldest undo point of a restore that nobody has pinned or reads; again while there is one
 *   3. drop-spare   the oldest snapshot that its maker can do without, which is the image of a mirror's cycle; again while there
 *      is one. The maker is told to let go (`letGo`, snappoint.ts): the cycle ends, and the mirror goes on from its bookmark.
 *      What others have pinned, or have open for longer, stays, and nobody is told; a maker that takes too long is not waited for
 *   4. the request fails with no-space
 * Whoever is not a request of a client (the copier of a restore, a shrink) gives nothing up and fails at once, or tries later.
 *
 * A write that finds no space in live itself, on a full disk, is a request that fails for want of space like the others.
 *
 * Not subject to the budget: handing over in a merge, which is how space comes back; and what is lent, which lies in live.
 */
import { NbdeltaError } from '../device/errors.js'
import type { SpaceOrder, SpaceRule } from '../store/point-entry.js'
import type { VolumeCore } from './core.js'
import { lentCopies } from './gate.js'
import type { LiveView } from './live-view.js'
import type { Point } from './point.js'
import type { VolumePoints } from './points.js'
import { pinOf } from './snappoint.js'
import type { Need } from './usage.js'

/** What ran out. */
export type SpaceWant = 'budget' | 'disk'

/** A point that was given up for want of space. */
export interface Sacrifice {
  readonly name: string
  /** ISO 8601, UTC. */
  readonly at: string
  readonly why: SpaceWant
}

export interface SpaceFacts extends SpaceRule {
  /** In the files of points, or promised to what is on its way there. */
  readonly keptBytes: number
  /** Points given up since the volume was opened. */
  readonly sacrifices: number
  readonly lastSacrifice: Sacrifice | null
  /** Writes fail now for want of this. */
  readonly failing: SpaceWant | null
}

/** No limit but the disk. */
export const NO_BUDGET: SpaceRule = Object.freeze({ budgetBytes: null, order: 'drop-undo-then-fail' })

type Step = 'drop-undo' | 'drop-spare'
const STEPS: Readonly<Record<SpaceOrder, readonly Step[]>> = Object.freeze({
  'drop-undo-then-fail': ['drop-undo', 'drop-spare'], 'fail': [],
})

const NOTHING: readonly Need[] = Object.freeze([])

/** While the disk is full, what is staged is tried again so often. */
const RETRY_MS = 5000
/** A client's request waits no longer for those who are told to let go. */
const LET_GO_MS = 5000

/** Old content could not be preserved; nothing has changed. */
class Shortage extends NbdeltaError {
  /** @param grains that would have been needed of the budget. */
  constructor(readonly want: SpaceWant, readonly grains: number, message: string, options?: { cause?: unknown, hint?: string }) {
    super('no-space', message, options)
  }
}

function wantOf(error: unknown): SpaceWant | undefined {
  if (error instanceof Shortage) return error.want
  const cause = error instanceof NbdeltaError ? error.cause as NodeJS.ErrnoException | undefined : undefined
  return cause?.code === 'ENOSPC' || cause?.code === 'EDQUOT' ? 'disk' : undefined
}

export class Space {
  readonly #core: VolumeCore
  readonly #view: LiveView
  readonly #name: string
  #rule: SpaceRule
  /** Who deletes; set once it is there. */
  points: Pick<VolumePoints, 'delete' | 'settled' | 'inTurn'> | undefined
  /** There may be room now: whoever was refused some, and tries again later, does so at once. */
  onRoom: () => void = () => undefined
  /** A copy failed of it, and none has been made since. */
  #diskFull = false
  /** Grains that the last refused request would have needed; undefined: writes do not fail of the budget. */
  #refused: number | undefined
  #failing: SpaceWant | undefined
  #sacrifices = 0
  #last: Sacrifice | null = null
  #making: Promise<boolean> | undefined
  #retry: { cancel(): void } | undefined
  #stopped = false

  constructor(core: VolumeCore, view: LiveView, name: string, rule: SpaceRule) {
    this.#core = core
    this.#view = view
    this.#name = name
    this.#rule = rule
  }

  /** Holds from the next request on. A budget below what is kept already: nothing is preserved until there is room again. */
  set rule(rule: SpaceRule) {
    this.#rule = rule
    this.expect()
    this.onRoom()
  }

  /** What is staged has its promise, asked for or not: taken while there was no budget, or found at open. */
  expect(): void {
    const { staging } = this.#core
    if (this.#rule.budgetBytes === null || !staging || staging.idle) return
    for (const { start, end } of staging.grains().runs()) this.promise(this.needs(start, end))
    this.promise([...staging.grains('later').runs()].map(run => ({ ...run, isLent: false })))
  }

  get facts(): SpaceFacts {
    const { chain, grainBytes } = this.#core
    return {
      ...this.#rule, keptBytes: (chain.usage.kept + chain.usage.promised) * grainBytes,
      sacrifices: this.#sacrifices, lastSacrifice: this.#last,
      failing: this.#failing === 'budget' && this.#hasRoom(this.#refused!) ? null : this.#failing ?? null,
    }
  }

  /** What of grains [from, to) is going to be kept in the file of a point, if they are overwritten. */
  needs(from: number, to: number): Need[] {
    const { chain, grainBytes, sizeBytes } = this.#core
    const needs: Need[] = lentCopies(chain, from, to).map(({ run }) => ({ ...run, isLent: true }))
    for (let at = from; at < to;) {
      const needed = chain.neededRun(at, to)
      for (let start = needed.start; start < needed.end;) {
        const offset = start * grainBytes
        const there = this.#view.zeroRun(offset, Math.min(needed.end * grainBytes, sizeBytes) - offset)
        const end = Math.min(needed.end, start + Math.ceil(Math.abs(there) / grainBytes))
        if (there > 0) needs.push({ start, end, isLent: false })
        start = end
      }
      at = needed.end
    }
    return needs
  }

  /**
   * Grains [from, to) may be staged: what is to be promised for them. Undefined: there is no room for what they need, or
   * something speaks against it being there later.
   */
  roomFor(from: number, to: number): readonly Need[] | undefined {
    if (this.#diskFull) return undefined
    if (this.#rule.budgetBytes === null) return NOTHING
    const needs = this.needs(from, to)
    return this.#hasRoom(this.#count(needs)) ? needs : undefined
  }

  /** As `roomFor`, for a snapshot in the making, which is going to need all of them; those with a promise cannot have another. */
  roomForAll(from: number, to: number): readonly Need[] | undefined {
    if (this.#diskFull) return undefined
    if (this.#rule.budgetBytes === null) return NOTHING
    const needs = [{ start: from, end: to, isLent: false }]
    const grains = this.#count(needs)
    return grains === to - from && this.#hasRoom(grains) ? needs : undefined
  }

  /** Room for these grains is theirs until they are kept, or `release`. */
  promise(needs: readonly Need[]): void { for (const need of needs) this.#core.chain.usage.promise(need) }

  /** A point has gone: perhaps nobody needs what was promised any more. The whole volume is held. */
  reconsider(): void {
    if (this.#core.chain.usage.promised === 0) return
    const runs = this.#core.chain.usage.recall()
    if (this.#rule.budgetBytes !== null) for (const { start, end } of runs) this.promise(this.needs(start, end))
  }

  /** Of what was staged. */
  release(from: number, to: number): void { this.#core.chain.usage.release({ start: from, end: to, isLent: false }) }

  /** What was staged of it last never was; something else `isStaged` there. */
  renew(grain: number, isStaged: boolean): void {
    this.release(grain, grain + 1)
    if (isStaged && this.#rule.budgetBytes !== null) this.promise(this.needs(grain, grain + 1))
  }

  /** Runs `work`, which has so much preserved. The grains are locked. Errors: no-space before it begins, and those of `work`. */
  async during(needed: () => readonly Need[], work: () => Promise<void>): Promise<void> {
    if (this.#rule.budgetBytes === null) return work()
    const needs = needed()
    const { usage } = this.#core.chain
    const grains = this.#count(needs)
    if (grains > 0 && !this.#hasRoom(grains)) throw this.#refusal(grains)
    this.promise(needs)
    try {
      await work()
    } finally {
      for (const need of needs) usage.release(need)
    }
  }

  /** Old content has found its place. Where something is staged, that must find its place as well before more is. */
  copied(): void {
    const { staging } = this.#core
    if (this.#diskFull && (!staging || staging.idle)) this.#diskHasRoom()
  }

  #diskHasRoom(): void {
    this.#diskFull = false
    this.#retry?.cancel()
    this.#retry = undefined
    if (this.#failing === 'disk') this.#recovered()
  }

  /** The error as whoever asked is to get it. */
  copyFailed(error: unknown): unknown {
    if (!(error instanceof NbdeltaError) || error.code !== 'no-space') return error
    this.#diskFull = true
    if (!this.#stopped) this.#retry ??= this.#core.clock.setTimeout(() => this.#tryAgain(), RETRY_MS)
    return new Shortage('disk', 0, `old content that a snapshot needs finds no space: ${error.message}`,
      { cause: error, hint: 'make room on the disk, or delete snapshots' })
  }

  /**
   * Resolves when something was given up for a request that failed with `error`: it is to be tried again. Else throws `error`.
   * The caller holds no lock.
   */
  async makeRoom(error: unknown): Promise<void> {
    const want = wantOf(error)
    if (!want) throw error
    // What was being deleted may have come to its end since.
    if (error instanceof Shortage && want === 'budget' && this.#hasRoom(error.grains)) return
    this.#making ??= this.#giveUp(want).finally(() => { this.#making = undefined })
    if (await this.#making) return
    if (this.#failing === undefined) {
      this.#core.logger.warn({ volume: this.#name, err: error, ...this.facts },
        'writes that need old content preserved fail for want of space')
    }
    this.#failing = want
    throw error
  }

  /** The disk was full when a request needed it last: what is written goes through `makeRoom` and `served`. */
  get isTight(): boolean { return this.#failing === 'disk' }

  /** A request has succeeded. */
  served(): void { if (this.#failing === 'disk' && !this.#diskFull) this.#recovered() }

  /** Nothing is given up any more; what is being given up is over. */
  async stop(): Promise<void> {
    this.#stopped = true
    this.#retry?.cancel()
    await this.#making?.catch(() => undefined)
  }

  /** What is staged, to its place. In turn, for a deletion must not meet it on its way. */
  #tryAgain(): void {
    this.#retry = undefined
    const { staging } = this.#core
    if (this.#stopped || !staging || staging.idle) return
    this.points?.inTurn(() => staging.drain()).then(() => this.#diskHasRoom(), () => undefined)
  }

  #count(needs: readonly Need[]): number {
    return needs.reduce((sum, need) => sum + this.#core.chain.usage.unpromised(need), 0)
  }

  #hasRoom(grains: number): boolean {
    const { chain: { usage }, grainBytes } = this.#core
    const { budgetBytes } = this.#rule
    const fits = budgetBytes === null || (usage.kept + usage.promised + grains) * grainBytes <= budgetBytes
    if (fits && this.#failing === 'budget' && grains >= this.#refused!) this.#recovered()
    return fits
  }

  #recovered(): void {
    this.#failing = undefined
    this.#refused = undefined
    this.#core.logger.info({ volume: this.#name }, 'there is space for old content again')
  }

  #refusal(grains: number): Shortage {
    const { keptBytes, budgetBytes } = this.facts
    this.#refused = grains
    return new Shortage('budget', grains,
      `${grains * this.#core.grainBytes} bytes of old content have to be kept for a snapshot, and of the budget of `
      + `${budgetBytes} bytes ${keptBytes} are used`, { hint: 'raise the budget, or delete snapshots' })
  }

  /** True: there may be room now. */
  async #giveUp(want: SpaceWant): Promise<boolean> {
    if (this.#stopped || !this.points) return false
    const { chain } = this.#core
    // It is there already for whoever overwrites something, and can go only when it is made.
    if (chain.points.some(({ state, spare }) => state === 'making' && spare)) await this.points.inTurn(async () => undefined)
    if (chain.points.some(({ state }) => state === 'deleting') && await this.#settled()) return true
    for (const step of STEPS[this.#rule.order]) if (await this.#drop(step, want)) return true
    return false
  }

  /** The oldest that may go. False: none may. */
  async #drop(step: Step, why: SpaceWant): Promise<boolean> {
    const { clock, logger } = this.#core
    const untilMs = clock.now() + LET_GO_MS
    for (const point of this.#free(step)) {
      const { info: { name }, spare } = point
      try {
        if (spare) await this.#letGo(point, spare, untilMs)
        await this.points!.delete(name, spare?.owners)
      } catch (error) {
        // Its maker may have deleted it first.
        if (!spare || point.state !== 'deleting') {
          logger.warn({ volume: this.#name, point: name, why, err: error }, 'a snapshot could not be given up for want of space')
          continue
        }
      }
      this.#sacrifices++
      this.#last = { name, at: clock.wallTime().toISOString(), why }
      logger.warn({ volume: this.#name, point: name, why, step, ...this.#rule }, 'a snapshot was given up for want of space')
      await this.#settled()
      return true
    }
    return false
  }

  /** Oldest first. */
  #free(step: Step): readonly Point[] {
    const now = this.#core.clock.wallTime()
    const isUndo = (point: Point): boolean => point.info.labels.auto === 'undo' && point.users === 0 && !pinOf(point.info, now)
    const isSpare = ({ info, spare, users, yielding }: Point): boolean => spare !== undefined && !pinOf(info, now, spare.owners)
      && (users === 0 || (users === yielding && !spare.told))
    const isFree = step === 'drop-undo' ? isUndo : isSpare
    return this.#core.chain.points.filter(point => point.state === 'ready' && isFree(point))
  }

  /** Nobody has it open any more. Errors: busy (somebody has it still). */
  async #letGo(point: Point, spare: NonNullable<Point['spare']>, untilMs: number): Promise<void> {
    const { clock } = this.#core
    if (!spare.told) {
      spare.told = true
      spare.letGo()
    }
    if (point.users === 0) return
    let timer: { cancel(): void } | undefined
    await new Promise<void>((resolve, reject) => {
      point.onUnused = resolve
      const late = (): void => { reject(new NbdeltaError('busy', 'whoever reads it takes too long')) }
      timer = clock.setTimeout(late, untilMs - clock.now())
    }).finally(() => { timer?.cancel() })
  }

  /** What was deleted has given its space back; false: it could not, and will be tried again. */
  async #settled(): Promise<boolean> { return this.points!.settled().then(() => true, () => false) }
}
