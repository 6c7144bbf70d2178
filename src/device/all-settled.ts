/** Several pieces of one piece of work, which has ended only when all of them have, whatever becomes of one. */
import type { Pending } from './block-device.js'

/** All of them have ended; then throws the first failure. Buffers in flight are nobody else's until then. */
export async function allSettled(pending: readonly (Promise<void> | undefined)[]): Promise<void> {
  for (const result of await Promise.allSettled(pending)) if (result.status === 'rejected') throw result.reason
}

/**
 * What `begin` begins, with each piece told to `add`: all of it has ended, also when a later piece fails in the turn in which it
 * is begun. Else that would be answered while earlier ones have the buffers still, and their failures would be nobody's.
 */
export function together(begin: (add: (piece: Pending) => void) => void): Pending {
  let pending: Promise<void>[] | undefined
  try {
    begin(piece => { if (piece) (pending ??= []).push(piece) })
  } catch (error) {
    if (!pending) throw error
    pending.push(Promise.reject(error))
  }
  return pending && allSettled(pending)
}

/** Both have ended, likewise; undefined: there is nothing to wait for. */
export function both(a: Pending, b: Pending): Pending { return a && b ? allSettled([a, b]) : a ?? b }
