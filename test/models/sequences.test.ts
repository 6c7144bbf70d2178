// G11, B5: every sequence of four operations on two and a half grains, and samples of longer ones, against whole copies.
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { PRELUDES, runAll } from './sequences.js'

t.setTimeout(900_000)

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)

for (const length of [1, 2, 3, 4]) {
  t.test(`all of length ${length}`, async t => {
    const { sequences, comparisons, wrong } = await runAll('nothing', length)
    t.comment(`${sequences} sequences, ${comparisons} comparisons`)
    t.equal(wrong, undefined, 'none goes wrong')
    t.ok(sequences > 5 ** length, 'enough of them')
  })
}

for (const prelude of Object.keys(PRELUDES) as (keyof typeof PRELUDES)[]) {
  t.test(`${prelude}, and then all of length 2, some of length 4`, async t => {
    t.comment(`seed ${SEED}`)
    const random = seededRandom(SEED)
    for (const [length, odds] of [[2, 1], [4, 100]]) {
      const { sequences, comparisons, wrong } = await runAll(prelude, length, () => random(odds) === 0)
      t.comment(`${sequences} sequences, ${comparisons} comparisons`)
      t.equal(wrong, undefined, 'none goes wrong')
    }
  })
}
