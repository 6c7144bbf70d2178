/**
 * The gate: the one place where a client's numbers are judged (STYLE habit 3). Pure; everything behind it asserts.
 *
 * Order of checks (PROTOCOL X3): command, flags, shutting down, read-only, zero length, alignment, range. Magic and payload
 * are the session's business: whatever the verdict, a payload is consumed and the connection lives (F2).
 */
import { COMMAND, COMMAND_FLAG, ERRNO } from '../../native-free/nbd/constants.js'
import type { ErrnoName } from '../../native-free/nbd/constants.js'
import type { ReplyStyle, Request } from '../../native-free/nbd/transmission.js'

/** What a connection has been promised; what the gate measures requests against. */
export interface SessionFacts {
  readonly style: ReplyStyle
  readonly readOnly: boolean
  readonly fastZero: boolean
  /** Metadata contexts were selected. */
  readonly contexts: boolean
  /** Smallest addressable unit, bytes, a power of two. */
  readonly minimumBytes: number
  /** Longest READ that is answered, bytes. */
  readonly readBytes: number
  /** Longest payload that is taken, bytes (Z4). */
  readonly payloadBytes: number
}

/** Why a request is not carried out. Frozen and shared: a refusal allocates nothing. */
export interface Refusal {
  readonly rule: string
  readonly errnoName: ErrnoName
  readonly errno: number
  readonly text: string
  readonly bytes: Buffer
}
function refusal(rule: string, errnoName: ErrnoName, text: string): Refusal {
  return Object.freeze({ rule, errnoName, errno: ERRNO[errnoName], text, bytes: Buffer.from(text) })
}

export const REFUSALS = Object.freeze({
  command: refusal('command', 'EINVAL', 'there is no such command'),
  flags: refusal('flags', 'EINVAL', 'a flag is not known or not valid for this command'),
  payload: refusal('payload', 'EINVAL', 'this command takes no payload'),
  payloadTooLong: refusal('payload-too-long', 'EINVAL', 'the payload is longer than this server takes'),
  noContexts: refusal('no-contexts', 'EINVAL', 'block status needs a metadata context, and none was negotiated'),
  filter: refusal('filter', 'EINVAL', 'the list of metadata contexts is not acceptable'),
  readOnly: refusal('read-only', 'EPERM', 'the export is read-only'),
  empty: refusal('empty', 'EINVAL', 'block status of nothing'),
  alignment: refusal('alignment', 'EINVAL', 'offset and length must be multiples of the minimum block size'),
  past: refusal('past-the-end', 'EINVAL', 'the range passes the end of the export'),
  pastWrite: refusal('past-the-end', 'ENOSPC', 'the range passes the end of the export'),
  readTooLong: refusal('read-too-long', 'EINVAL', 'the read is longer than the maximum payload'),
  shuttingDown: refusal('shutting-down', 'ESHUTDOWN', 'the server is shutting down'),
})

/** Flags each command takes; FUA is taken on every command (F1), PAYLOAD_LEN is judged by hand. Indexed by command. */
const FLAGS: readonly number[] = [
  COMMAND_FLAG.fua | COMMAND_FLAG.df, // read
  COMMAND_FLAG.fua, // write
  0xffff, // disconnect
  COMMAND_FLAG.fua, // flush
  COMMAND_FLAG.fua, // trim
  COMMAND_FLAG.fua, // cache
  COMMAND_FLAG.fua | COMMAND_FLAG.noHole | COMMAND_FLAG.fastZero, // write zeroes
  COMMAND_FLAG.fua | COMMAND_FLAG.reqOne, // block status
]

/**
 * Judges a request against what was negotiated and the export's present size. Undefined: carry it out.
 *
 * For BLOCK_STATUS with PAYLOAD_LEN the header's length is that of the payload; the range inside is judged by
 * `judgeRange` once it is known (E5).
 */
export function judge(request: Request, facts: SessionFacts, sizeBytes: number, refusing: boolean): Refusal | undefined {
  const { type, flags } = request
  if (type > COMMAND.blockStatus) return REFUSALS.command
  if ((flags & ~FLAGS[type]!) !== 0) {
    const refused = judgeFlags(request, facts)
    if (refused !== undefined) return refused
  } else if (type === COMMAND.read && (flags & COMMAND_FLAG.df) !== 0 && facts.style === 'simple') return REFUSALS.flags
  if (type === COMMAND.writeZeroes && (flags & COMMAND_FLAG.fastZero) !== 0 && !facts.fastZero) return REFUSALS.flags
  if (type === COMMAND.blockStatus && !facts.contexts) return REFUSALS.noContexts
  if (refusing) return REFUSALS.shuttingDown
  if (facts.readOnly && isWriteClass(type)) return REFUSALS.readOnly
  if (type === COMMAND.flush || type === COMMAND.disconnect) return undefined
  if (type === COMMAND.blockStatus && (flags & COMMAND_FLAG.payloadLen) !== 0) return undefined
  return judgeRange(type, request.offset, request.length, facts, sizeBytes)
}

/** The rest of the flags: only PAYLOAD_LEN may still be right, under extended headers, on WRITE and BLOCK_STATUS (E3, E5). */
function judgeFlags(request: Request, facts: SessionFacts): Refusal | undefined {
  const { type, flags } = request
  if ((flags & ~(FLAGS[type]! | COMMAND_FLAG.payloadLen)) !== 0 || facts.style !== 'extended') return REFUSALS.flags
  return type === COMMAND.write || type === COMMAND.blockStatus ? undefined : REFUSALS.payload
}

/** Zero length (R5: nothing to do is a success, wherever), alignment, range, in this order (X3). */
export function judgeRange(
  type: number, offset: number, length: number, facts: SessionFacts, sizeBytes: number,
): Refusal | undefined {
  if (length === 0) return type === COMMAND.blockStatus ? REFUSALS.empty : undefined
  const unit = facts.minimumBytes
  if (unit > 1 && (offset % unit !== 0 || length % unit !== 0)) return REFUSALS.alignment
  if (offset > sizeBytes || length > sizeBytes - offset) {
    return type === COMMAND.write || type === COMMAND.writeZeroes ? REFUSALS.pastWrite : REFUSALS.past
  }
  if (type === COMMAND.read && length > facts.readBytes) return REFUSALS.readTooLong
  return undefined
}

function isWriteClass(type: number): boolean {
  return type === COMMAND.write || type === COMMAND.trim || type === COMMAND.writeZeroes
}

/** How many payload bytes follow the header: WRITE's always (E3); under extended headers any command's with PAYLOAD_LEN (E4). */
export function payloadBytesOf(request: Request, style: ReplyStyle): number {
  if (request.type === COMMAND.write) return request.length
  return style === 'extended' && (request.flags & COMMAND_FLAG.payloadLen) !== 0 ? request.length : 0
}
