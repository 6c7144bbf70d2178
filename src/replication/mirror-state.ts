/**
 * Which command a mirror takes in which phase (SEEDS D9): the table, and who asks it. docs/mirrors.md shows the same table; a
 * test compares the two, and walks every cell on real mirrors.
 *
 *   copying    the first copy is under way or failed half-way: the target has no declared point yet
 *   paired     the target is at a declared point; what changed since is shipped cycle by cycle
 *   split      both sides are written to on their own; what changes on each is known, or is found by comparing
 *   resyncing  the target is brought to the source's content again; until that is done it shows the point it was split at
 */
import { NbdeltaError } from '../device/errors.js'
import type { MirrorState, Phase } from './mirror-record.js'

export type Verb = 'sync' | 'pause' | 'resume' | 'split' | 'resync' | 'reverse' | 'verify' | 'delete'

/** `accept`: it is done. `nothing`: it is so already. `reject`: with the reason, and what helps. */
export type Verdict =
  | { readonly rule: 'accept' }
  | { readonly rule: 'nothing', readonly why: string }
  | { readonly rule: 'reject', readonly why: string, readonly hint: string }

const accept: Verdict = Object.freeze({ rule: 'accept' })
const nothing = (why: string): Verdict => Object.freeze({ rule: 'nothing', why })
const reject = (why: string, hint: string): Verdict => Object.freeze({ rule: 'reject', why, hint })

const FIRST = reject('its first copy is not complete', 'wait for it: nbdelta mirror sync')
const APART = reject('it is split', 'bring the two together first: nbdelta mirror resync')
const UNDER_WAY = reject('its resync is not complete', 'wait for it: nbdelta mirror sync')

export const TABLE: Readonly<Record<Phase, Readonly<Record<Verb, Verdict>>>> = Object.freeze({
  copying: {
    sync: accept, pause: accept, resume: accept, split: FIRST, resync: nothing('its first copy runs'), reverse: FIRST,
    verify: FIRST, delete: accept,
  },
  paired: {
    sync: accept, pause: accept, resume: accept, split: accept, resync: nothing('it is not split'),
    reverse: reject('it is not split', 'split it first: nbdelta mirror split'), verify: accept, delete: accept,
  },
  split: {
    sync: APART, pause: nothing('nothing runs while it is split'), resume: nothing('nothing runs while it is split'),
    split: nothing('it is split already'), resync: accept, reverse: accept, verify: APART, delete: accept,
  },
  resyncing: {
    sync: accept, pause: accept, resume: accept, split: UNDER_WAY, resync: nothing('its resync runs'), reverse: UNDER_WAY,
    verify: UNDER_WAY, delete: accept,
  },
})

/** False: it is so already. Errors: wrong-state. */
export function accepts(verb: Verb, phase: Phase, mirror: string): boolean {
  const verdict = TABLE[phase][verb]
  if (verdict.rule === 'reject') {
    throw new NbdeltaError('wrong-state', `cannot ${verb} mirror ${mirror}: ${verdict.why}`, { hint: verdict.hint })
  }
  return verdict.rule === 'accept'
}

/**
 * The record of a mirror whose target is to get the source's content again, by the next cycle. Any phase becomes this one: a
 * first copy may have been declared without anybody having heard of it. @param whole compares everything, whatever maps say
 */
export function resyncing(state: MirrorState, whole: boolean): MirrorState {
  return { ...state, phase: 'resyncing', base: whole ? null : state.base, keep: true }
}
