/** A test that lives through so many stories: SEED, STORIES and STATES of the environment say which, how many, and how closely. */
import t from 'tap'
import { Lives, LIVES, type Tale } from './lives.js'

export function testLives<World, Note>(tale: Tale<World, Note>, counts: { readonly stories: number, readonly states: number }): void {
  const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
  const STORIES = Number(process.env.STORIES ?? counts.stories)
  const STATES = Number(process.env.STATES ?? counts.states)
  t.setTimeout(60_000 + STORIES * 60_000)
  t.test(`${STATES} states of each of ${STORIES} times ${LIVES} lives`, { timeout: 60_000 + STORIES * 60_000 }, async t => {
    t.comment(`SEED=${SEED}`)
    const all = new Lives(tale, STATES)
    // Timers of the store do not keep the process.
    const awake = setInterval(() => undefined, 1000)
    t.teardown(() => {
      clearInterval(awake)
      all.close()
    })
    for (let i = 0; i < STORIES && t.passing(); i++) t.same(await all.run(SEED + i), [], `seed ${SEED + i}`)
  })
}
