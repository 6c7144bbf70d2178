/** What can go wrong with a peer, as NbdeltaErrors. Whatever a peer says is printed escaped and cut, never raw. */
import { ERRNO } from '../../native-free/nbd/constants.js'
import { NbdeltaError, type ErrorCode } from '../device/errors.js'
import { quoteClientText } from './wire-error.js'

/** The peer broke the protocol: the connection cannot go on. */
export function badPeer(what: string): NbdeltaError {
  return new NbdeltaError('bad-peer', `the peer breaks the NBD protocol: ${what}`)
}

/** Nobody is there, or not in time. */
export function unreachable(what: string, cause?: unknown): NbdeltaError {
  return new NbdeltaError('unreachable', what, { cause })
}

/** A failed connect, or a socket that broke. */
export function socketError(error: NodeJS.ErrnoException, doing: string): NbdeltaError {
  const code: ErrorCode = error.code === 'EACCES' || error.code === 'EPERM' ? 'denied' : 'unreachable'
  return new NbdeltaError(code, `${doing}: ${error.message}`, { cause: error })
}

/** Texts of errors, options and names from a peer: a space and the quoted text, or nothing. */
export function quoted(text: Buffer): string {
  return text.length === 0 ? '' : ` ${quoteClientText(text)}`
}

/**
 * EINVAL and ENOMEM are the peer's failures here, not the caller's: what is sent was judged before. A number outside the
 * table means EINVAL (section 15).
 */
const CODES: ReadonlyMap<number, ErrorCode> = new Map<number, ErrorCode>([
  [ERRNO.EPERM, 'denied'], [ERRNO.ENOSPC, 'no-space'], [ERRNO.EOVERFLOW, 'too-large'], [ERRNO.ESHUTDOWN, 'unreachable'],
])
const NAMES = new Map(Object.entries(ERRNO).map(([name, errno]) => [errno as number, name]))

/** A request the peer refused with `errno`. `fast`: it was a FAST_ZERO, for which ENOTSUP has a meaning. */
export function refusedRequest(doing: string, errno: number, text: Buffer, fast: boolean): NbdeltaError {
  const code = fast && errno === ERRNO.ENOTSUP ? 'not-fast' : CODES.get(errno) ?? 'io'
  const name = NAMES.get(errno) ?? `EINVAL (unknown errno ${errno})`
  return new NbdeltaError(code, `${doing}: the peer answers ${name}${quoted(text)}`)
}
