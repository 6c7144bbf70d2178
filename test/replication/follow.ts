/** A trace of a model, followed on the shipped code: one action after the other, as far as it is possible there, and compared after each. */
import type { Action } from '../models/explorer.js'

export interface Follower<A> {
  readonly counts: { done: number, leftOut: number }
  isPossible(action: A): boolean
  do(action: A): Promise<void>
  /** Errors: whatever is not as the model says. */
  compare(): Promise<void>
  /** Behind the last action. */
  end(): Promise<void>
}

/** Errors: the first one of the follower, behind what was done until then. */
export async function follow<A extends Action<string>>(actions: readonly A[], follower: Follower<A>): Promise<void> {
  const told: string[] = []
  try {
    for (const action of actions) {
      if (!follower.isPossible(action)) {
        follower.counts.leftOut++
        continue
      }
      told.push([action.name, ...action.args].join(' '))
      await follower.do(action)
      follower.counts.done++
      await follower.compare()
    }
    told.push('end')
    await follower.end()
  } catch (error) {
    throw new Error(`${told.join(' > ')}: ${error instanceof Error ? error.stack : String(error)}`)
  }
}
