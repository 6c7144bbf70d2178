/** What must not be: a promise that does not hold. Everything else that is thrown is of the world that is simulated, or a bug. */
import { NbdeltaError } from '../../src/device/errors.js'

export class Wrong extends Error {}

/** Of the world that is simulated; anything else is thrown on. */
export function expected(error: unknown): undefined {
  if (error instanceof NbdeltaError) return undefined
  throw error
}

/** So many of them. */
export async function turns(count: number): Promise<void> { for (let left = count; left > 0; left--) await turn() }

/** Resolves in the next turn of the event loop, when everything that can go on by itself has gone on. */
export function turn(): Promise<void> { return new Promise(resolve => { setImmediate(resolve) }) }
