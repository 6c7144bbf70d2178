/** Several pieces of one piece of work, which has ended only when all of them have, whatever becomes of one. */
import type { Pending } from './block-device.js'

/** All of them have ended; then throws the first failure. Buffers in flight are nobody else's until then. */
export async function allSettled(pending: readonly (Promise<void> | undefined)[]): Promise<void> {
  for (const result of await Promise.allSettled(pending)) if (result.status === 'rejected') throw result.reason
}

/** Both have ended, likewise; undefined: there is nothing to wait for. */
export function both(a: Pending, b: Pending): Pending { return a && b ? allSettled([a, b]) : a ?? b }
