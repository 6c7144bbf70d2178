// The model of generations, bitmaps and activity log: a slice of it (the whole: `make models`), and its 10 wrong variants.
import t from 'tap'
import { explore } from './explorer.js'
import { caught, holds, walks } from './model-tests.js'
import { PAIR_RULES, PAIR_VARIANTS, PairModel, type PairVariant, type Verdict } from './pair-model.js'

t.setTimeout(300_000)

const SEED = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)

t.test('the design: 2 blocks, 2 writes, 3 generations', async t =>
  holds(t, new PairModel({ blocks: 2, writes: 2, generations: 3 }), 180_993))
t.test('the design: 2 blocks, 1 write, 4 generations, 2 restores', async t =>
  holds(t, new PairModel({ blocks: 2, writes: 1, generations: 4, restores: 2 }), 18_060))

t.test('the design: 2 blocks, 2 writes, 3 generations, by what nodes know', async t =>
  holds(t, new PairModel({ blocks: 2, writes: 2, generations: 3, byBase: true }), 180_723))

t.equal(Object.keys(PAIR_VARIANTS).length, 10)
for (const [name, row] of Object.entries(PAIR_VARIANTS)) {
  const bounds = { blocks: 2, writes: 2, generations: 3 }
  t.test(`${name}: ${row.does}`, async t => caught(t, new PairModel(bounds, name as PairVariant), row))
}

t.test('nodes that meet: every rule of two nodes is used, the two for strangers never', async t => {
  const rules = new Map<string, number>()
  class Counting extends PairModel {
    override judge(nodes: Parameters<PairModel['judge']>[0]): Verdict {
      const verdict = super.judge(nodes)
      rules.set(verdict.rule, (rules.get(verdict.rule) ?? 0) + 1)
      return verdict
    }
  }
  explore(new Counting({ blocks: 2, writes: 1, generations: 4, restores: 2 }))
  t.comment(Object.fromEntries(rules))
  t.strictSame(PAIR_RULES.filter(rule => !rules.has(rule)), ['one is of the past', 'unrelated'])
})

t.test('nodes that meet: strangers', async t => {
  const model = new PairModel({ blocks: 2, writes: 1, generations: 3 })
  const [node] = model.initial.nodes
  t.strictSame(model.judge([{ ...node, current: 5, history: [4, 2] }, { ...node, current: 2 }]),
    { rule: 'one is of the past', does: 'resync', source: 0, todo: 0b11 }, 'all of it')
  t.strictSame(model.judge([{ ...node, current: 2 }, { ...node, current: 5, history: [4, 2] }]),
    { rule: 'one is of the past', does: 'resync', source: 1, todo: 0b11 }, 'either way')
  t.strictSame(model.judge([{ ...node, current: 5, history: [4] }, { ...node, current: 3 }]),
    { rule: 'unrelated', does: 'split' }, 'refused')
})

t.test('random traces', async t =>
  walks(t, new PairModel({ blocks: 4, writes: 24, generations: 200, faults: 60, restores: 6, byBase: true }), SEED))
