/**
 * Making a record log and opening one: reads both halves, lets record-log-recovery.ts judge them, repairs, goes on.
 *
 * Repairs, in this order, each made durable before the next; a crash in between leads to the same repairs again:
 *   1. zeros over a torn end, so that a record behind it can never join the chain that grows towards it;
 *      zeros over a rewrite cut short, so that its records cannot be taken for those of the next rewrite, which will
 *      have the same epoch. What counts, and no mark vouches for, is written again. Flush: that makes durable what a killed
 *      process left in the page cache. The flush alone would not, where an earlier one has failed: to the kernel what that one
 *      was to write is clean, so that it is read as if it were there, until the power fails.
 *   2. RETIRED into the half that does not count. Earlier, it would vouch for a half that is not on the medium yet.
 *   3. the mark.
 */
import { isZero } from '../../native-free/index.js'
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import {
  encodeAlone, encodeRetired, halfBytesOf, headerPayload, LOG_MIN_BYTES, MARK_AT, otherHalf, RECORDS_AT, TYPE_HEADER, TYPE_MARK,
  type LogIdentity, type LogRecord,
} from './record-log-layout.js'
import { RecordLog } from './record-log.js'
import { chooseHalf, holdsLaterEpoch, readHalf, type Choice, type Half } from './record-log-recovery.js'

/** A half is a whole number of these. */
const STEP_BYTES = 4096

/** What `openRecordLog` found. */
interface OpenedRecordLog {
  readonly log: RecordLog
  /** The last snapshot, then everything appended since, in order. Payloads are views into one buffer, half the log's size. */
  readonly records: readonly LogRecord[]
  /** What was repaired, in words for the operator's log; empty after a clean end. */
  readonly recovery: readonly string[]
}

/**
 * Makes an empty log of the whole device: zeros everywhere (so that no later write has to allocate), then the two
 * headers, then a flush. Until this is done nothing may refer to the log: a crash leaves something that is not one.
 */
export async function formatRecordLog(device: BlockDevice, identity: LogIdentity): Promise<void> {
  await format(device, identity, halfBytesOf(device.sizeBytes))
}

/** The same of a device that holds zeros already, and writes the headers alone: the log takes space as it grows. */
export async function formatSparseLog(device: BlockDevice, identity: LogIdentity): Promise<void> {
  await format(device, identity, RECORDS_AT)
}

async function format(device: BlockDevice, identity: LogIdentity, writtenBytes: number): Promise<void> {
  const halfBytes = halfBytesOf(device.sizeBytes)
  const epoch = 1
  const opening = headerPayload({ snapshotRecords: 0, halfBytes })
  const headers = [
    encodeAlone(identity, 0, { type: TYPE_HEADER, epoch, sequence: 1, durableSequence: 0 }, opening),
    encodeRetired(identity, halfBytes, epoch, 1, halfBytes),
  ]
  for (const [index, header] of headers.entries()) {
    const half = Buffer.alloc(writtenBytes)
    header.copy(half)
    await device.write(index * halfBytes, writtenBytes, half, 0)
  }
  await device.flush()
}

/**
 * Opens a log made by `formatRecordLog` and repairs what a crash left. The device stays the caller's; nobody else may use it.
 * Errors: damaged (names device, offset and record), newer-format, io, flush-failed.
 */
export async function openRecordLog(device: BlockDevice, identity: LogIdentity): Promise<OpenedRecordLog> {
  if (device.sizeBytes < LOG_MIN_BYTES) {
    throw new NbdeltaError('damaged', `${identity.name}: ${device.sizeBytes} bytes are too few for a log: the file was cut`)
  }
  const halfBytes = halfBytesOf(device.sizeBytes)
  const bytes = [Buffer.allocUnsafe(halfBytes), Buffer.allocUnsafe(halfBytes)] as const
  await device.read(0, halfBytes, bytes[0], 0)
  await device.read(halfBytes, halfBytes, bytes[1], 0)
  if (isBlankHeader(bytes[0]) && isBlankHeader(bytes[1])) {
    throw new NbdeltaError('damaged', `${identity.name}: there is no log in it, only zeros`)
  }
  const halves = [readHalf(identity, bytes[0], 0), readHalf(identity, bytes[1], halfBytes)] as const
  const choice = chooseHalf(identity, halves)
  const live = halves[choice.live]
  const idle = otherHalf(choice.live)
  const wipe = choice.other === 'wipe' || holdsLaterEpoch(identity, bytes[idle], idle * halfBytes, live.epoch)
  const recovery = describe(choice, live, wipe)
  await repair(device, identity, choice, live, wipe, bytes[choice.live])
  const usedBytes: [number, number] = [live.end, live.end]
  usedBytes[idle] = wipe ? RECORDS_AT : Math.max(RECORDS_AT, usedBytesOf(bytes[idle]))
  const log = new RecordLog(device, identity, {
    half: choice.live, epoch: live.epoch, end: live.end, sequence: live.lastSequence, usedBytes,
  })
  return { log, records: live.records, recovery }
}

function isBlankHeader(half: Buffer): boolean {
  return half.subarray(0, RECORDS_AT).every(byte => byte === 0)
}

/** Up to the last byte that is not zero, in steps. */
function usedBytesOf(half: Buffer): number {
  let end = half.length
  while (end > 0 && isZero(half, end - STEP_BYTES, STEP_BYTES)) end -= STEP_BYTES
  return end
}

function describe(choice: Choice, live: Half, wipe: boolean): string[] {
  const texts: string[] = []
  if (choice.rule === 'rewrite-not-retired') texts.push('a rewrite had been finished but not confirmed (rewrite-not-retired)')
  else if (wipe) texts.push('a rewrite had been cut short and was undone (rewrite-cut-short)')
  if (live.dirtyTail) texts.push(`an end that was never confirmed was cut off behind record ${live.records.length} (torn-tail)`)
  return texts
}

async function repair(
  device: BlockDevice, identity: LogIdentity, choice: Choice, live: Half, wipe: boolean, bytes: Buffer,
): Promise<void> {
  const halfBytes = halfBytesOf(device.sizeBytes)
  const idleBase = otherHalf(choice.live) * halfBytes
  if (live.dirtyTail) await writeZeros(device, live.base + live.end, halfBytes - live.end)
  if (wipe) await writeZeros(device, idleBase, halfBytes)
  if (live.markedSequence !== live.lastSequence) await device.write(live.base, live.end, bytes, 0)
  await device.flush()
  if (wipe || choice.other === 'retire') {
    const retired = encodeRetired(identity, idleBase, live.epoch, live.lastSequence, halfBytes)
    await device.write(idleBase, retired.length, retired, 0)
    await device.flush()
  }
  if (live.markedSequence === live.lastSequence) return
  const address = live.base + MARK_AT
  const fields = { type: TYPE_MARK, epoch: live.epoch, sequence: 0, durableSequence: live.lastSequence }
  const mark = encodeAlone(identity, address, fields)
  await device.write(address, mark.length, mark, 0)
}

async function writeZeros(device: BlockDevice, offset: number, length: number): Promise<void> {
  await device.write(offset, length, Buffer.alloc(length), 0)
}
