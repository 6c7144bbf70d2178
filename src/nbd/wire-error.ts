/** A device's failure on its way to the client: the eight errnos of the wire, and a text that is always valid UTF-8. */
import { ERRORS, NbdeltaError } from '../device/errors.js'
import { ERRNO } from '../../native-free/nbd/constants.js'
import type { Refusal } from './request-verdict.js'

/** Longest error text sent, bytes; with any header it stays within REPLY_ROOM_BYTES. */
const ERROR_TEXT_BYTES = 200

/** Text for the wire: cut at a character's edge, never longer than `limit` bytes. */
export function wireText(text: string, limit = ERROR_TEXT_BYTES): Buffer {
  // Unpaired surrogates become U+FFFD on encoding; cutting a Buffer could split a character, so the string is cut.
  let cut = text.slice(0, limit)
  while (Buffer.byteLength(cut) > limit) cut = cut.slice(0, -1)
  return Buffer.from(cut)
}

/** Text a client gave, fit for logs and error replies: escaped, cut to 80 characters (O5). */
export function quoteClientText(bytes: Buffer): string {
  return JSON.stringify(bytes.subarray(0, 400).toString('utf8').slice(0, 80))
}

/** A failure as a refusal. Undefined: not a NbdeltaError, so a broken invariant; the connection must go. */
export function refusalOf(error: unknown): Refusal | undefined {
  if (!(error instanceof NbdeltaError)) return undefined
  const errnoName = ERRORS[error.code].errno
  return { rule: error.code, errnoName, errno: ERRNO[errnoName], text: error.message, bytes: wireText(error.message) }
}
