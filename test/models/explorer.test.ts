// The explorer finds every state, a shortest history of what is wrong, and keeps states apart that differ in anything.
import t from 'tap'
import { explore, Model, packed, type Rule } from './explorer.js'

interface Jugs { held: readonly number[] }

/** Two jugs of 3 and 5: 'wrong' is that one has `target`. */
class JugModel extends Model<Jugs, 'fill' | 'empty' | 'pour'> {
  readonly blocks = 2
  readonly initial: Jugs = { held: [0, 0] }
  readonly rules: Readonly<Record<'fill' | 'empty' | 'pour', Rule<Jugs>>> = {
    fill: { args: ['block'], possible: () => true, apply: (s, jug) => { s.held = s.held.with(jug, SIZES[jug]) } },
    empty: { args: ['block'], possible: ({ held }, jug) => held[jug] > 0, apply: (s, jug) => {
      s.held = s.held.with(jug, 0)
      return jug === this.spilling ? 'spilt' : undefined
    } },
    pour: { args: ['block'], possible: ({ held }, jug) => held[jug] > 0, apply: (s, jug) => {
      const moved = Math.min(s.held[jug], SIZES[1 - jug] - s.held[1 - jug])
      s.held = s.held.map((held, i) => i === jug ? held - moved : held + moved)
    } },
  }

  constructor(readonly target: number, readonly spilling = -1) { super() }
  fork(state: Jugs): Jugs { return { ...state } }
  wrong({ held }: Jugs): string | undefined { return held.includes(this.target) ? `a jug has ${this.target}` : undefined }
}
const SIZES = [3, 5]

t.test('every state, once', async t => {
  const { states, depth, edges, taken, whole, wrong } = explore(new JugModel(-1))
  t.strictSame({ states, depth, whole, wrong }, { states: 16, depth: 8, whole: true, wrong: undefined })
  t.equal(edges, Object.values(taken).reduce((sum, count) => sum + count, 0))
})

t.test('a shortest history', async t => {
  const { wrong, history, whole } = explore(new JugModel(4))
  t.equal(wrong, 'a jug has 4')
  t.strictSame(history, ['fill(1)', 'pour(1)', 'empty(0)', 'pour(1)', 'fill(1)', 'pour(1)'])
  t.notOk(whole)
})

t.test('a step that is wrong, though the state it leads to is known', async t => {
  const { wrong, history } = explore(new JugModel(-1, 1))
  t.strictSame({ wrong, history }, { wrong: 'spilt', history: ['fill(1)', 'empty(1)'] })
})

t.test('the first state can be wrong', async t => { t.strictSame(explore(new JugModel(0)).history, []) })

t.test('a bound is told from the end', async t => {
  const { states, whole } = explore(new JugModel(-1), { statesMax: 5 })
  t.ok(states >= 5 && states < 16)
  t.notOk(whole)
})

t.test('states differ by any field', async t => {
  const kinds = [
    [{ a: 0 }, { a: -1 }, { a: -2 }, { a: 250 }, { a: undefined }],
    [{ a: undefined, b: 0 }, { a: 0, b: undefined }, { a: 0, b: 0 }, { a: 1, b: 0 }, { a: 0, b: 1 }],
    [{ a: [], b: 0 }, { a: [0], b: 0 }, { a: [0, 0], b: 0 }, { a: [0, 0], b: -2 }, { a: undefined, b: 0 }],
    [{ a: { b: 0 } }, { a: { b: undefined } }, { a: undefined }],
    [{ a: true }, { a: false }, { a: undefined }],
  ]
  for (const states of kinds) t.equal(new Set(states.map(packed)).size, states.length, JSON.stringify(states))
  t.equal(packed({ a: [1, { b: true }] }), packed({ a: [1, { b: true }] }))
  t.throws(() => packed({ a: 251 }), RangeError)
  t.throws(() => packed({ a: -3 }), RangeError)
})

t.test('what is followed must be possible', async t => {
  const model = new JugModel(-1)
  t.strictSame(model.follow([['fill', 1], ['pour', 1]]).at(-1), { held: [3, 2] })
  t.throws(() => model.follow([['pour', 0]]), /pour\(0\) is not possible/)
})

t.test('random traces are their seed', async t => {
  const model = new JugModel(-1)
  t.strictSame(model.randomTrace(7, 40), model.randomTrace(7, 40))
  t.notSame(model.randomTrace(7, 40), model.randomTrace(8, 40))
  t.equal(model.randomTrace(7, 40).length, 40)
})
