/**
 * What a peer told about its export, judged: a size that is an exact Number (CVE-2023-5215: one with the top bit set),
 * block sizes that can be obeyed, flags as words.
 */
import { BASE_ALLOCATION, TRANSMISSION_FLAG } from '../../native-free/nbd/constants.js'
import type { ReplyStyle } from '../../native-free/nbd/transmission.js'
import type { BlockSizes } from '../device/block-device.js'
import { badPeer } from './client-errors.js'

/** What to keep to with a peer that says nothing (Z2), and the most that is ever sent at once. */
const PAYLOAD_BYTES_MAX = 2 ** 25
const PREFERRED_BYTES = 4096
const MINIMUM_BYTES_MAX = 65_536
const PREFERRED_BYTES_MAX = 2 ** 31

export interface ToldSizes { readonly minimum: number, readonly preferred: number, readonly maximum: number }
export interface ToldFacts { readonly sizeBytes: bigint, readonly flags: number, readonly sizes: ToldSizes | undefined }

export interface PeerFacts {
  readonly style: ReplyStyle
  readonly extended: boolean
  /** Chunks: structured or extended. */
  readonly structured: boolean
  /** Transmission flags as they came. */
  readonly flags: number
  readonly multiConn: boolean
  readonly readOnly: boolean
  readonly rotational: boolean
  readonly canFlush: boolean
  readonly canFua: boolean
  readonly canTrim: boolean
  readonly canZero: boolean
  readonly canFastZero: boolean
  readonly canCache: boolean
  /** Metadata contexts in use. */
  readonly contexts: readonly string[]
  readonly contextId: number | undefined
  /** What requests on the wire keep to. */
  readonly sizes: BlockSizes
  /** A whole number of `sizes.minimum`: what lies behind cannot be reached. */
  readonly sizeBytes: number
}

/** Throws `bad-peer` when the facts are none. */
export function judgeFacts(style: ReplyStyle, contextId: number | undefined, told: ToldFacts): PeerFacts {
  const sizes = judgeSizes(told.sizes)
  const { sizeBytes, flags } = told
  if (sizeBytes > BigInt(Number.MAX_SAFE_INTEGER)) throw badPeer(`an export of ${sizeBytes} bytes; 2^53 - 1 are the most`)
  const has = (flag: number): boolean => (flags & TRANSMISSION_FLAG.hasFlags) !== 0 && (flags & flag) !== 0
  const flag = TRANSMISSION_FLAG
  return Object.freeze({
    style, extended: style === 'extended', structured: style !== 'simple', flags, contextId, sizes,
    contexts: contextId === undefined ? [] : [BASE_ALLOCATION],
    sizeBytes: Number(sizeBytes) - Number(sizeBytes) % sizes.minimum,
    multiConn: has(flag.canMultiConn), readOnly: has(flag.readOnly), rotational: has(flag.rotational),
    canFlush: has(flag.sendFlush), canFua: has(flag.sendFua), canTrim: has(flag.sendTrim), canCache: has(flag.sendCache),
    canZero: has(flag.sendWriteZeroes), canFastZero: has(flag.sendWriteZeroes) && has(flag.sendFastZero),
  })
}

function judgeSizes(told: ToldSizes | undefined): BlockSizes {
  if (told === undefined) return Object.freeze({ minimum: 1, preferred: PREFERRED_BYTES, maximum: PAYLOAD_BYTES_MAX })
  const { minimum, preferred, maximum } = told
  const sound = isPowerOfTwo(minimum) && minimum <= MINIMUM_BYTES_MAX && isPowerOfTwo(preferred)
    && preferred >= Math.max(512, minimum) && preferred <= PREFERRED_BYTES_MAX && maximum >= preferred
  if (!sound) throw badPeer(`block sizes ${minimum}, ${preferred}, ${maximum} (Z1)`)
  const most = Math.min(maximum, PAYLOAD_BYTES_MAX)
  return Object.freeze({ minimum, preferred: Math.min(preferred, PAYLOAD_BYTES_MAX), maximum: most - most % minimum })
}

function isPowerOfTwo(value: number): boolean { return value > 0 && Number.isInteger(Math.log2(value)) }

/** Whether what was planned for one may be sent to the other: the same in all but its size. */
export function sameFacts(one: PeerFacts, other: PeerFacts): boolean {
  return one.style === other.style && one.flags === other.flags && one.contexts.length === other.contexts.length
    && one.sizes.minimum === other.sizes.minimum && one.sizes.maximum === other.sizes.maximum
}
