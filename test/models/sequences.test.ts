// G11, B5: every sequence of four operations on two and a half grains, and a sample of those of five, against whole copies.
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { runAll } from './sequences.js'

t.setTimeout(900_000)

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)

for (const length of [1, 2, 3, 4]) {
  t.test(`all of length ${length}`, async t => {
    const { sequences, comparisons, wrong } = await runAll(length)
    t.comment(`${sequences} sequences, ${comparisons} comparisons`)
    t.equal(wrong, undefined, 'none goes wrong')
    t.ok(sequences > 5 ** length, 'enough of them')
  })
}

t.test('some of length 5', async t => {
  t.comment(`seed ${SEED}`)
  const random = seededRandom(SEED)
  const { sequences, comparisons, wrong } = await runAll(5, () => random(200) === 0)
  t.comment(`${sequences} sequences, ${comparisons} comparisons`)
  t.equal(wrong, undefined, 'none goes wrong')
})
