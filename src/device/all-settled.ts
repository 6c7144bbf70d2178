/** Several pieces of one piece of work, which has ended only when all of them have, whatever becomes of one. */

/** All of them have ended; then throws the first failure. Buffers in flight are nobody else's until then. */
export async function allSettled(pending: readonly (Promise<void> | undefined)[]): Promise<void> {
  for (const result of await Promise.allSettled(pending)) if (result.status === 'rejected') throw result.reason
}
