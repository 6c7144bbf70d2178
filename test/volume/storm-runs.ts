/**
 * Storms as a test: the same ones each time, as the lives of crash/simulated-mirrors, so that a failure is a change's doing.
 * SEED=n RUNS=n takes others.
 */
import t from 'tap'

const STEPS = 80

/** @param storm returns what is wrong, or undefined */
export function stormTest(
  name: string, storm: (seed: number, steps: number, counts: Map<string, number>) => Promise<string | undefined>,
  { seed, runs }: { readonly seed: number, readonly runs: number },
): void {
  const first = Number(process.env.SEED ?? seed)
  const times = Number(process.env.RUNS ?? runs)
  t.comment(`SEED=${first}`)
  t.setTimeout(300_000)
  t.test(name, async t => {
    const counts = new Map<string, number>()
    for (let i = 0; i < times && t.passing(); i++) t.equal(await storm(first + i, STEPS, counts), undefined, `seed ${first + i}`)
    t.comment([...counts].map(([what, count]) => `${what}: ${count}`).join(', '))
  })
}
