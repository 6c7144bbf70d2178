/**
 * MirrorGroup: several mirrors as one. Their sources are frozen at one instant, each cycle ships exactly that, and a split is of
 * all or of none (SEEDS D1-D3).
 *
 *   1. in turn     nothing else of any member runs until the end; members in order of uuid, as every group takes them. While it
 *                  waits for one, streams of others go on, and declare what they have to
 *   2. cycles      all of them begin, and wait for one another before they freeze (rendezvous.ts); AT_ONCE of them ship at a time
 *   3. split       when all are declared: one record of the store says `split` of all members. That is the decision
 *   4. release     each target is told. Until it has heard it, it shows its declared point, which is that of the split
 *
 * A failure before 3 ends what runs of the others: every pair is as it was, paired, and what was declared was an ordinary cycle.
 * After 3 all are split: a member whose target was not told (`releasing` in its record) tells it again, also after a crash. So
 * what a crash leaves is decided by the record of 3 alone. The other way round, with a target released first, a crash would leave
 * some split and some paired; and no order of two records can prevent that.
 *
 * A reversal (reversal.ts) is of all or of none as well: one record of the store restores all sources. Which of the pairs are
 * together again then, a second record says; a target that has not accepted it leaves its own pair split, with nothing to
 * restore any more.
 */
import { NbdeltaError } from '../device/errors.js'
import { allSettled } from '../device/all-settled.js'
import type { InheritJob } from '../volume/copier.js'
import type { TransferOptions } from '../volume/transfer.js'
import type { Store } from '../volume/open-store.js'
import type { Mirror } from './mirror.js'
import type { MirrorRecord, MirrorState } from './mirror-record.js'
import { resyncing, TABLE, type Verb } from './mirror-state.js'
import type { MirrorTurn } from './mirror-status.js'
import type { PulledVolumes } from './pulled.js'
import { Reversal } from './reversal.js'
import { AT_ONCE, Rendezvous } from './rendezvous.js'

/** Errors of a restore that are told before its record is written, though all volumes may be held by then. */
const BEFORE_THE_RECORD: readonly string[] = ['busy', 'wrong-state', 'not-found', 'bad-argument']
const NOTHING_TO_COPY: InheritJob = {
  finished: Promise.resolve(), cancel: async () => undefined,
  progress: () => ({ doneBytes: 0, totalBytes: 0 }), problem: () => undefined,
}

type GroupStore = Pick<Store, 'createPointsTogether' | 'putMirrors' | 'restoreTogether'>

export class MirrorGroup {
  /** As they were given. */
  readonly mirrors: readonly Mirror[]
  readonly #store: GroupStore
  readonly #pulled: PulledVolumes
  readonly #judgeOwn: (volume: string) => void

  /** @param judgeOwn throws wrong-state, if what a source (its uuid) holds is another mirror's */
  constructor(
    mirrors: readonly Mirror[], store: GroupStore, pulled: PulledVolumes, judgeOwn: (volume: string) => void = () => undefined,
  ) {
    this.mirrors = mirrors
    this.#store = store
    this.#pulled = pulled
    this.#judgeOwn = judgeOwn
  }

  /** A cycle of each, of one instant. Every target is there when it resolves. Errors: those of a cycle, with the mirror named. */
  sync(options: TransferOptions = {}): Promise<void> {
    return this.#inTurn('sync', false, turns => this.#cycles(turns, options))
  }

  /**
   * All targets stand on their own, at points of one instant: new ones, or with `atOnce` the last. False: all are split already.
   * Errors: wrong-state (with `atOnce`: their points are not of one instant), those of a cycle; all name the mirror, and all
   * leave every pair as it was.
   */
  async split({ atOnce, ...options }: TransferOptions & { readonly atOnce: boolean }): Promise<boolean> {
    if (!this.judgeSplit({ atOnce: false })) return false
    return this.#inTurn('split', atOnce, async turns => {
      if (!this.judgeSplit({ atOnce: false })) return false
      if (atOnce) judgeInstant(this.mirrors)
      else await this.#cycles(turns, options)
      await this.#decide(turns, state => ({ ...state, phase: 'split', keep: true, releasing: true }), ({ base }) => ({
        rule: 'split-together', inputs: { point: base?.point ?? null, members: turns.length },
        outcome: 'both are on their own',
      }))
      // One that does not hear it now is told later; it is split all the same.
      await Promise.allSettled(turns.map(turn => turn.release()))
      return true
    })
  }

  /** False: all are split already. Errors: wrong-state, with the mirror named. */
  judgeSplit({ atOnce }: { readonly atOnce: boolean }): boolean {
    for (const mirror of this.mirrors) mirror.judge('split')
    const apart = this.mirrors.filter(({ state }) => TABLE[state.phase].split.rule === 'nothing')
    if (apart.length === this.mirrors.length) return false
    if (apart.length > 0) {
      throw new NbdeltaError('wrong-state', `cannot split ${namesOf(this.mirrors)} together: ${namesOf(apart)} is split already`,
        { hint: 'bring it together first: nbdelta mirror resync' })
    }
    if (atOnce) judgeInstant(this.mirrors)
    return true
  }

  /**
   * From here on the targets are to get the sources' content again, each by its next cycle; of all or of none. Members that are
   * not split stay as they are. Durable when it resolves. @param whole compares everything
   */
  beginResync({ whole }: { readonly whole: boolean }): Promise<void> {
    return this.#inTurn(whole ? undefined : 'resync', false, async turns => {
      const taken = turns.filter(({ mirror: { state } }) => whole || TABLE[state.phase].resync.rule === 'accept')
      for (const turn of taken) await named(turn.mirror, turn.release())
      await this.#decide(taken, state => resyncing(state, whole), ({ base }) => ({
        rule: 'resync-together', inputs: { base: base?.point ?? null, members: taken.length }, outcome: 'by the next cycle',
      }))
    })
  }

  /**
   * All sources show what their targets hold when this resolves, at one instant, and the pairs are together again; what is
   * followed is the copying. The caller has seen to it that nobody writes to the targets, and keeps clients away from the
   * sources.
   * Errors: as `judgeReversal`, cancelled, busy (a source was written to meanwhile), those of a restore, and of targets; all name
   * the mirror. Then no source was restored, or the error says so.
   */
  async reverse({ signal, onProgress }: TransferOptions = {}): Promise<InheritJob> {
    this.judgeReversal()
    return this.#inTurn('reverse', false, async turns => {
      const begun = new Map<MirrorTurn, Reversal>()
      let restored: Parameters<Reversal['close']>[0] = 'nothing'
      try {
        for (const turn of turns) await named(turn.mirror, turn.release())
        await this.#each(turns, { ...signal && { signal }, ...onProgress && { onProgress } }, async (turn, options) => {
          const { state } = turn.mirror
          begun.set(turn, await turn.run(options, parts => Reversal.prepare(parts, state, this.#pulled)))
        })
        if (signal?.aborted) throw new NbdeltaError('cancelled', `the reversal of ${namesOf(this.mirrors)} was cancelled`)
        const job = restored = await this.#restore([...begun.values()], now => { restored = now })
        await this.#accept(begun)
        return lasting(job)
      } finally {
        await allSettled([...begun.values()].map(one => one.close(restored)))
      }
    })
  }

  /**
   * Errors: wrong-state (a source is a target itself, among others), bad-argument (of two members one changes what the other is
   * about), with the mirror named.
   */
  judgeReversal(): void {
    const sources = new Map<string, Mirror>()
    for (const mirror of this.mirrors) {
      mirror.judge('reverse')
      const { volume, name } = mirror.record
      this.#judgeOwn(volume)
      const other = sources.get(volume)
      if (other) {
        const why = `${other.record.name} and ${name} have the same source: it can show one target's content`
        throw new NbdeltaError('bad-argument', why)
      }
      sources.set(volume, mirror)
    }
    for (const { record: { name }, state: { target } } of this.mirrors) {
      const other = target.kind === 'volume' ? sources.get(target.uuid) : undefined
      if (!other) continue
      throw new NbdeltaError('bad-argument', `the target of ${name} is the source of ${other.record.name}`,
        { hint: 'reverse them one after the other' })
    }
  }

  /** A cycle of each, by itself. Errors: cancelled, and one that names every mirror that failed, and why. */
  async syncEach({ signal, onProgress }: TransferOptions): Promise<void> {
    const told = sums(this.mirrors.length, onProgress)
    const failed: { readonly mirror: Mirror, readonly error: unknown }[] = []
    const left = [...this.mirrors.entries()]
    await Promise.all(Array.from({ length: AT_ONCE }, async () => {
      for (let next = left.shift(); next; next = left.shift()) {
        const [place, mirror] = next
        const options = { ...signal && { signal }, onProgress: told(place) }
        await mirror.sync(options).catch((error: unknown) => { failed[place] = { mirror, error } })
      }
    }))
    const failures = Object.values(failed)
    const [first] = failures
    if (!first) return
    const why = failures.map(({ mirror: { record }, error }) =>
      `${record.name}: ${error instanceof Error ? error.message : String(error)}`)
    const code = first.error instanceof NbdeltaError ? first.error.code : 'internal'
    throw new NbdeltaError(code, why.join('; '), { cause: first.error })
  }

  /** In order of uuid, each turn inside the one before. */
  async #inTurn<T>(verb: Verb | undefined, hurry: boolean, work: (turns: readonly MirrorTurn[]) => Promise<T>): Promise<T> {
    const ordered = [...this.mirrors].sort((a, b) => a.record.uuid < b.record.uuid ? -1 : 1)
    const take = ([first, ...rest]: readonly Mirror[], turns: readonly MirrorTurn[]): Promise<T> =>
      first ? first.inTurn(verb, turn => take(rest, [...turns, turn]), hurry) : work(turns)
    return take(ordered, [])
  }

  /** All of them, or the first failure once nothing runs any more. */
  async #cycles(turns: readonly MirrorTurn[], options: TransferOptions): Promise<void> {
    const meeting = new Rendezvous(turns.length, wanted => this.#store.createPointsTogether(wanted))
    const ending = { width: turns.length, endAll: () => { meeting.cancel() }, ended: () => meeting.ended() }
    await this.#each(turns, options, (turn, control) => meeting.with(freeze => turn.cycle(control, freeze)), ending)
  }

  /**
   * Each of them, `width` at a time, or the first failure once nothing runs any more. @param ending `endAll` ends what no signal
   * does, and `ended` waits for it
   */
  async #each(
    turns: readonly MirrorTurn[], { signal, onProgress }: TransferOptions,
    work: (turn: MirrorTurn, control: TransferOptions) => Promise<void>,
    ending: { readonly width: number, endAll?(): void, ended?(): Promise<unknown> } = { width: AT_ONCE },
  ): Promise<void> {
    const aborts = turns.map(() => new AbortController())
    const endAll = (): void => {
      for (const abort of aborts) abort.abort()
      ending.endAll?.()
    }
    signal?.addEventListener('abort', endAll, { once: true })
    if (signal?.aborted) endAll()
    const told = sums(turns.length, onProgress)
    let failure: { readonly mirror: Mirror, readonly error: unknown } | undefined
    const left = [...turns.entries()]
    await Promise.all(Array.from({ length: ending.width }, async () => {
      for (let next = left.shift(); next; next = left.shift()) {
        const [place, turn] = next
        try {
          await work(turn, { signal: aborts[place]!.signal, onProgress: told(place) })
        } catch (error) {
          failure ??= { mirror: turn.mirror, error }
          endAll()
        }
      }
    }))
    await ending.ended?.()
    signal?.removeEventListener('abort', endAll)
    if (failure) throw withName(failure.mirror, failure.error)
  }

  /** @param doubt told what is not known while it is not */
  async #restore(reversals: readonly Reversal[], doubt: (now: 'unknown' | 'nothing') => void): Promise<InheritJob> {
    const wanted = reversals.flatMap(({ restore }) => !restore ? [] : [{
      ...restore,
      whenHeld: () => {
        // It may have become one since. What its mirror has declared there it would never send again.
        for (const { record } of this.mirrors) this.#judgeOwn(record.volume)
        doubt('unknown')
        restore.whenHeld?.()
      },
    }])
    if (wanted.length === 0) return NOTHING_TO_COPY
    try {
      return await this.#store.restoreTogether(wanted)
    } catch (error) {
      if (error instanceof NbdeltaError && BEFORE_THE_RECORD.includes(error.code)) doubt('nothing')
      throw error
    }
  }

  /** Those whose targets have accepted it are paired, by one record. Errors: those of the others, and of the record. */
  async #accept(begun: ReadonlyMap<MirrorTurn, Reversal>): Promise<void> {
    const turns = [...begun.keys()]
    const results = await Promise.allSettled([...begun].map(([turn, one]) =>
      named(turn.mirror, turn.run({}, parts => one.finish(parts)))))
    const done = results.flatMap((result, place) =>
      result.status === 'fulfilled' ? [{ turn: turns[place]!, ...result.value }] : [])
    const failures = results.flatMap(result => result.status === 'rejected' ? [result.reason as unknown] : [])
    const paired = done.map(({ turn }) => turn)
    if (done.length > 0) {
      await this.#decide(paired, (_, place) => done[place]!.state, (_, place) => done[place]!.decision)
        .catch((error: unknown) => { failures.push(unrecorded(paired, error)) })
    }
    throwAll(failures)
  }

  /**
   * One durable record of all of them, and then in force. None of them streams, or it might declare a point meanwhile: what is
   * declared is of one instant, by cycles that end streams, or the target was released, or is split.
   */
  async #decide(
    turns: readonly MirrorTurn[], next: (state: MirrorState, place: number) => MirrorState,
    decision: (state: MirrorState, place: number) => Parameters<MirrorTurn['adopt']>[1],
  ): Promise<void> {
    const records: MirrorRecord[] = turns.map(({ mirror: { record } }, place) =>
      ({ ...record, state: next(record.state, place) }))
    await this.#store.putMirrors(records)
    for (const [place, turn] of turns.entries()) turn.adopt(records[place]!.state, decision(records[place]!.state, place))
  }
}

/** Their sources have been restored, and their targets have accepted that. */
function unrecorded(turns: readonly MirrorTurn[], error: unknown): unknown {
  if (!(error instanceof NbdeltaError)) return error
  const whose = turns.map(({ mirror: { record } }) => `the source of ${record.name}`).join(', ')
  return new NbdeltaError(error.code, `${whose} shows what its target had, but they are still split: ${error.message}`,
    { hint: 'once more nbdelta mirror resync --reverse, which has little left to do', cause: error })
}

/** One error that says them all, which name their mirrors; one of nobody's making goes before. */
function throwAll(failures: readonly unknown[]): void {
  const told = failures.map(failure => {
    if (!(failure instanceof NbdeltaError)) throw failure
    return failure
  })
  const [first, ...more] = told
  if (!first) return
  if (more.length === 0) throw first
  throw new NbdeltaError(first.code, told.map(({ message }) => message).join('; '), { hint: first.hint, cause: first })
}

/** Errors: wrong-state. */
function judgeInstant(mirrors: readonly Mirror[]): void {
  const [first] = mirrors
  if (first?.instant !== undefined && mirrors.every(({ instant }) => instant === first.instant)) return
  throw new NbdeltaError('wrong-state', 'the last declared points of these mirrors are not of one instant',
    { hint: 'leave --at-once away; nbdelta mirror sync with all their names makes such points' })
}

/** The pair is together with what the source shows now: to take that back, the target has to get it first. */
function lasting(job: InheritJob): InheritJob {
  const cancel = async (): Promise<void> => {
    throw new NbdeltaError('wrong-state', 'the source shows its target\'s content already',
      { hint: 'its undo snapshot has what it showed before: nbdelta snapshot restore' })
  }
  return { finished: job.finished, cancel, progress: () => job.progress(), problem: () => job.problem() }
}

/** Progress of all of them, out of each one's. */
function sums(
  count: number, onProgress: TransferOptions['onProgress'],
): (place: number) => (done: number, total: number) => void {
  const parts = Array.from({ length: count }, () => ({ done: 0, total: 0 }))
  return place => (done, total) => {
    parts[place] = { done, total }
    onProgress?.(parts.reduce((sum, part) => sum + part.done, 0), parts.reduce((sum, part) => sum + part.total, 0))
  }
}

function namesOf(mirrors: readonly Mirror[]): string { return mirrors.map(({ record }) => record.name).join(', ') }

async function named<T>(mirror: Mirror, work: Promise<T>): Promise<T> {
  try { return await work } catch (error) { throw withName(mirror, error) }
}

function withName(mirror: Mirror, error: unknown): unknown {
  if (!(error instanceof NbdeltaError)) return error
  return new NbdeltaError(error.code, `mirror ${mirror.record.name}: ${error.message}`, { hint: error.hint, cause: error })
}
