/**
 * What the two halves of a record log say after a crash: which one counts, where its good records end, and whether
 * what does not check is a torn end (cut, no loss) or damage (refused: NbdeltaError `damaged`).
 *
 * A power cut leaves of the writes since the last flush any subset, each torn at any sector. It never changes what was
 * flushed. So a record that does not check is damage if and only if something proves that it had been flushed:
 * - a mark or a later record of the same epoch whose durable sequence reaches it, or
 * - for header and snapshot: the RETIRED record in the other half, written only after the snapshot had been flushed.
 * Everything else that does not check is the torn end of what nobody was promised.
 *
 * The rules by which a half is chosen are a table (`RULES`) over the states of both; each is tested by name.
 */
import { isZero, type DecodedRecord, type RecordReason } from '../../native-free/index.js'
import { NbdeltaError } from '../device/errors.js'
import {
  decodeAt, MARK_AT, readHeaderPayload, RECORDS_AT, TYPE_HEADER, TYPE_MARK, TYPE_RETIRED, otherHalf,
  type HalfIndex, type LogIdentity, type LogRecord,
} from './record-log-layout.js'

/** What is wrong at which place, for the message. */
interface Fault {
  /** Byte offset in the device. */
  readonly offset: number
  /** Counted from the start of the half: 0 is the header. */
  readonly record: number
  readonly reason: string
}

/**
 * `whole` counts; `partial` has a header and an incomplete snapshot; `retired` says that the other half took over;
 * `torn` has no readable header. `damaged` is whole or partial with proof that flushed records are gone.
 */
type HalfState = 'whole' | 'partial' | 'retired' | 'torn' | 'damaged'

export interface Half {
  readonly state: HalfState
  readonly base: number
  /** Of the half; for `retired`: of the one that took over; 0 for `torn`. */
  readonly epoch: number
  readonly records: readonly LogRecord[]
  /** Offset in the half behind the last good record. */
  readonly end: number
  readonly lastSequence: number
  /** The highest sequence that a mark claims to be on the medium. */
  readonly markedSequence: number
  /** Something other than zeros stands behind `end`. */
  readonly dirtyTail: boolean
  readonly fault: Fault | undefined
}

const EMPTY = { records: [], end: RECORDS_AT, lastSequence: 0, markedSequence: 0, dirtyTail: true, fault: undefined } as const

/** Reads one half. Throws `newer-format`, and `damaged` for a log that belongs to somebody else or was cut or stretched. */
export function readHalf(identity: LogIdentity, bytes: Buffer, base: number): Half {
  const header = decodeAt(identity, base, bytes, 0)
  if (!header.ok) {
    refuseForeign(identity, header.reason, base)
    return { ...EMPTY, state: 'torn', base, epoch: 0, fault: { offset: base, record: 0, reason: inWords(header.reason) } }
  }
  const retired = header.type === TYPE_RETIRED
  const opening = retired || header.type === TYPE_HEADER ? readHeaderPayload(header.payload) : undefined
  if (!opening) throw damaged(identity, { offset: base, record: 0, reason: 'is not the header of a half' })
  if (opening.halfBytes !== bytes.length) {
    const reason = `speaks of halves of ${opening.halfBytes} bytes, not ${bytes.length}: the file was cut or made longer`
    throw damaged(identity, { offset: base, record: 0, reason })
  }
  if (retired) return { ...EMPTY, state: 'retired', base, epoch: header.epoch }
  return judge(identity, bytes, base, header, opening.snapshotRecords)
}

/** Follows the records to the first that does not continue the chain, then looks for proof that it once did. */
function judge(identity: LogIdentity, bytes: Buffer, base: number, header: DecodedRecord, snapshotRecords: number): Half {
  const { epoch } = header
  const records: LogRecord[] = []
  let at = RECORDS_AT
  let expected = header.sequence + 1
  let reason: string
  for (;;) {
    const found = decodeAt(identity, base, bytes, at)
    if (!found.ok) { reason = inWords(found.reason); break }
    if (found.epoch !== epoch) { reason = `is of epoch ${found.epoch} instead of ${epoch}`; break }
    if (found.sequence !== expected) { reason = `has number ${found.sequence} instead of ${expected}`; break }
    records.push({ type: found.type, payload: found.payload })
    at += found.sizeBytes
    expected++
  }
  const markedSequence = readMark(identity, bytes, base, epoch)
  const dirtyTail = at < bytes.length && !isZero(bytes, at, bytes.length - at)
  const proven = Math.max(markedSequence, dirtyTail ? provenBehind(identity, bytes, base, at, epoch) : 0)
  const lost = proven >= expected
  const complete = records.length >= snapshotRecords
  const fault = lost || !complete ? { offset: base + at, record: records.length + 1, reason } : undefined
  const state = lost ? 'damaged' : complete ? 'whole' : 'partial'
  return { state, base, epoch, records, end: at, lastSequence: expected - 1, markedSequence, dirtyTail, fault }
}

function readMark(identity: LogIdentity, bytes: Buffer, base: number, epoch: number): number {
  const mark = decodeAt(identity, base, bytes, MARK_AT)
  return mark.ok && mark.type === TYPE_MARK && mark.epoch === epoch ? mark.durableSequence : 0
}

/** The highest durable sequence that any whole record of this epoch behind `from` claims. */
function provenBehind(identity: LogIdentity, bytes: Buffer, base: number, from: number, epoch: number): number {
  let proven = 0
  for (const record of recordsBehind(identity, bytes, base, from)) {
    if (record.epoch === epoch) proven = Math.max(proven, record.durableSequence)
  }
  return proven
}

/** Every record that checks at its own address behind `from`, whether or not a chain leads to it. */
function* recordsBehind(identity: LogIdentity, bytes: Buffer, base: number, from: number): Generator<DecodedRecord> {
  const magic = Buffer.alloc(4)
  magic.writeUInt32BE(identity.magic)
  for (let at = bytes.indexOf(magic, from); at >= 0; at = bytes.indexOf(magic, at + 4)) {
    const found = decodeAt(identity, base, bytes, at)
    if (found.ok) yield found
  }
}

/**
 * True when a half that does not count still holds records of a later epoch than `epoch`: a rewrite that was cut
 * short. They must be wiped before the next rewrite uses that epoch, or they could be taken for its continuation.
 */
export function holdsLaterEpoch(identity: LogIdentity, bytes: Buffer, base: number, epoch: number): boolean {
  for (const record of recordsBehind(identity, bytes, base, RECORDS_AT)) if (record.epoch > epoch) return true
  return false
}

export interface Choice {
  /** Name of the rule that decided. */
  readonly rule: string
  readonly live: HalfIndex
  /** What must be done with the other half before the log is used. */
  readonly other: 'nothing' | 'retire' | 'wipe'
}

interface Rule {
  readonly name: string
  readonly when: (one: Half, two: Half) => boolean
  readonly other: Choice['other']
}

/** First match counts; `one` is the half that would be taken, and it is whole. Both ways round are tried for each rule. */
const RULES: readonly Rule[] = [
  { name: 'in-order', when: (one, two) => two.state === 'retired' && two.epoch === one.epoch, other: 'nothing' },
  { name: 'rewrite-not-retired', when: (one, two) => two.state === 'whole' && one.epoch > two.epoch, other: 'retire' },
  { name: 'rewrite-cut-short', when: (_, two) => two.state === 'torn' || two.state === 'partial', other: 'wipe' },
]

/** Which half counts. Throws `damaged`, naming device, offset and record, when neither can be trusted. */
export function chooseHalf(identity: LogIdentity, halves: readonly [Half, Half]): Choice {
  for (const rule of RULES) {
    for (const live of [0, 1] as const) {
      const [one, two] = [halves[live], halves[otherHalf(live)]]
      if (one.state === 'whole' && rule.when(one, two)) return { rule: rule.name, live, other: rule.other }
    }
  }
  throw refusal(identity, halves)
}

/** No rule fits: say which record is at fault. */
function refusal(identity: LogIdentity, halves: readonly [Half, Half]): NbdeltaError {
  const proven = halves.find(half => half.state === 'damaged')
  if (proven) return damaged(identity, proven.fault!)
  const retired = halves.findIndex(half => half.state === 'retired')
  const successor = retired < 0 ? undefined : halves[otherHalf(retired as HalfIndex)]
  if (successor?.fault) return damaged(identity, successor.fault)
  if (retired < 0 && halves.every(half => half.fault)) {
    const [first, second] = halves.map(half => inSentence(half.fault!))
    return new NbdeltaError('damaged', `${identity.name}: both halves are unreadable: ${first}; ${second}`)
  }
  const [first, second] = halves.map(half => `${half.state} with epoch ${half.epoch}`)
  return new NbdeltaError('damaged', `${identity.name}: its halves contradict each other: ${first} and ${second}`)
}

function damaged(identity: LogIdentity, fault: Fault): NbdeltaError {
  return new NbdeltaError('damaged', `${identity.name}: ${inSentence(fault)}`)
}

function inSentence({ record, offset, reason }: Fault): string { return `record ${record} at offset ${offset} ${reason}` }

function refuseForeign(identity: LogIdentity, reason: RecordReason, offset: number): void {
  if (reason === 'version') {
    const hint = 'use the version that wrote it, or a newer one'
    throw new NbdeltaError('newer-format', `${identity.name}: written by a newer version of nbdelta`, { hint })
  }
  if (reason === 'owner' || reason === 'address') throw damaged(identity, { offset, record: 0, reason: inWords(reason) })
}

const WORDS: Readonly<Record<RecordReason, string>> = {
  end: 'is missing (zeros)',
  magic: 'is not a record of this log',
  length: 'has an impossible length',
  checksum: 'does not match its checksum',
  version: 'was written by a newer version',
  owner: 'belongs to another store or volume',
  address: 'was written for another place',
}
function inWords(reason: RecordReason): string { return WORDS[reason] }
