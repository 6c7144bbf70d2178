/**
 * One table: error code -> what it means -> NBD errno -> CLI exit code -> log level.
 *
 * `NbdeltaError` is the only error class that crosses a floor. Codes are API: they may be added, never renamed.
 * A broken invariant is not in this table: it is a plain Error, and it crashes (STYLE habit 18).
 */
export const EXIT = {
  ok: 0, failure: 1, usage: 2, notFound: 3, conflict: 4, busy: 5, noSpace: 6, io: 7, damaged: 8, unreachable: 9, denied: 10,
  bug: 70, interrupted: 130,
} as const

interface Row {
  readonly meaning: string
  readonly errno: 'EPERM' | 'EIO' | 'ENOMEM' | 'EINVAL' | 'ENOSPC' | 'EOVERFLOW' | 'ENOTSUP' | 'ESHUTDOWN'
  readonly exit: number
  readonly level: 'debug' | 'info' | 'warn' | 'error'
}
function row(meaning: string, errno: Row['errno'], exit: number, level: Row['level']): Row {
  return Object.freeze({ meaning, errno, exit, level })
}

export const ERRORS = Object.freeze({
  'bad-argument': row('a name, size, path or option is not acceptable', 'EINVAL', EXIT.usage, 'info'),
  'not-found': row('no such volume, export, client or file', 'EINVAL', EXIT.notFound, 'info'),
  'exists': row('something of that name is there already', 'EINVAL', EXIT.conflict, 'info'),
  'wrong-state': row('not possible in the present state', 'EINVAL', EXIT.conflict, 'info'),
  'busy': row('in use by somebody else', 'EINVAL', EXIT.busy, 'info'),
  'read-only': row('writing is not allowed here', 'EPERM', EXIT.denied, 'info'),
  'denied': row('the operating system or a policy refuses it', 'EPERM', EXIT.denied, 'warn'),
  'no-space': row('the disk, the store or a limit is full', 'ENOSPC', EXIT.noSpace, 'error'),
  'too-large': row('larger than a stated limit', 'EOVERFLOW', EXIT.usage, 'info'),
  'not-fast': row('cannot be done faster than writing zeros', 'ENOTSUP', EXIT.failure, 'debug'),
  'io': row('the backing device failed', 'EIO', EXIT.io, 'error'),
  'flush-failed': row('an earlier flush failed; what was written since the last good one is in doubt', 'EIO', EXIT.io, 'error'),
  'damaged': row('a record on disk does not check', 'EIO', EXIT.damaged, 'error'),
  'newer-format': row('written by a newer version', 'EIO', EXIT.damaged, 'error'),
  'gone': row('the client that asked is gone; the request was dropped', 'EIO', EXIT.failure, 'debug'),
  'shutting-down': row('the server is stopping', 'ESHUTDOWN', EXIT.unreachable, 'info'),
  'unreachable': row('nobody answers there', 'EIO', EXIT.unreachable, 'warn'),
  'bad-peer': row('the other side does not keep to the NBD protocol', 'EIO', EXIT.unreachable, 'warn'),
  'cancelled': row('cancelled on request', 'EIO', EXIT.interrupted, 'info'),
  'internal': row('a bug in nbdelta', 'EIO', EXIT.failure, 'error'),
})
export type ErrorCode = keyof typeof ERRORS

export class NbdeltaError extends Error {
  readonly code: ErrorCode
  /** What to do about it, for the operator; shown on a line of its own. */
  readonly hint: string | undefined
  /** What the failure has left behind, if that is anything; the message has it as well. */
  readonly left: string | undefined
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown, hint?: string | undefined, left?: string }) {
    super(message, options)
    this.name = 'NbdeltaError'
    this.code = code
    this.hint = options?.hint
    this.left = options?.left
  }
  get exitCode(): number { return ERRORS[this.code].exit }
}

const SYSTEM: Readonly<Record<string, ErrorCode>> = Object.freeze({
  ENOSPC: 'no-space', EDQUOT: 'no-space', EFBIG: 'no-space', EMFILE: 'no-space', ENFILE: 'no-space',
  EACCES: 'denied', EPERM: 'denied', EROFS: 'denied',
  ENOENT: 'not-found', ENOTDIR: 'not-found', EEXIST: 'exists', EBUSY: 'busy', ETXTBSY: 'busy',
  ECONNREFUSED: 'unreachable', EADDRINUSE: 'busy', EISDIR: 'bad-argument', ENAMETOOLONG: 'bad-argument',
})

/** A system error as one of ours; `doing` says in plain words what failed ("open /x/live"). Ours pass unchanged. */
export function asNbdeltaError(error: unknown, doing: string): NbdeltaError {
  if (error instanceof NbdeltaError) return error
  const errno = (error as NodeJS.ErrnoException | undefined)?.code
  const text = error instanceof Error ? error.message : String(error)
  return new NbdeltaError((errno && SYSTEM[errno]) || 'io', `${doing}: ${text}`, { cause: error })
}
