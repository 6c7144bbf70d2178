/**
 * The worked example of the periodic figure (SEEDS C; `002_3ab648a6be023240.txt`, FIG. 4A), as states that the model passes
 * through: a restore to T0 during a cycle. A map has a digit a region; of the COW image `--` is nothing kept.
 *
 * Two things the figure leaves out are said here: the first full copy, before T0, and that a mark of the current map stays
 * until the secondary has acknowledged the region, which at T2 and T3 it has not yet.
 */
import t from 'tap'
import { CycleModel, DITTO, UNKNOWN, type CycleAction, type CycleState } from './cycle-model.js'

const [A, B, C, D] = [0, 1, 2, 3]
const REGIONS = ['A', 'B', 'C', 'D']
/** By order of the writes; before them everything is 0. */
const WRITTEN = ['A1', 'B1', 'D1', 'B2']

const text = (value: number, block: number): string =>
  value === DITTO ? '--' : value === UNKNOWN ? '??' : value === 0 ? `${REGIONS[block]}0` : WRITTEN[value - 1]
const image = (values: readonly number[] | undefined): string => values?.map(text).join(' ') ?? 'none'
const map = (bits: number): string => REGIONS.map((_, block) => bits >> block & 1).join('')

interface Row { primary: string, current: string, next: string, cow: string, secondary: string }

function shown({ stored, cycle, next, secondary }: CycleState): Row {
  return {
    primary: image(stored), current: cycle ? map(cycle.unsent) : 'none', next: map(next), cow: image(cycle?.kept),
    secondary: image(secondary),
  }
}

type Actions = readonly (readonly [CycleAction, ...number[]])[]
const write = (block: number): Actions => [['write begins', block], ['write ends']]
const deliver = (...blocks: number[]): Actions => blocks.map(block => ['deliver', block])

const EXAMPLE: readonly (readonly [time: string, what: string, Actions, Row])[] = [
  ['T0', 'the first copy is complete, and a snapshot is taken', [['freeze'], ...deliver(A, B, C, D), ['declare'], ['snapshot']],
    { primary: 'A0 B0 C0 D0', current: 'none', next: '0000', cow: 'none', secondary: 'A0 B0 C0 D0' }],
  ['T1', 'A1 B1 D1 are written and frozen', [...write(A), ...write(B), ...write(D), ['freeze']],
    { primary: 'A1 B1 C0 D1', current: '1101', next: '0000', cow: '-- -- -- --', secondary: 'A0 B0 C0 D0' }],
  ['T1', 'B2 is written while they are sent', [...write(B), ...deliver(A, B, D)],
    { primary: 'A1 B2 C0 D1', current: '0000', next: '0100', cow: '-- B1 -- --', secondary: 'A1 B1 C0 D1' }],
  ['T2', 'next has become current, B2 is there and not acknowledged', [['declare'], ['freeze'], ['reply lost', B]],
    { primary: 'A1 B2 C0 D1', current: '0100', next: '0000', cow: '-- -- -- --', secondary: 'A1 B2 C0 D1' }],
  ['T3', 'the volume is restored to T0', [['restore'], ['copy back', A], ['copy back', B], ['copy back', D]],
    { primary: 'A0 B0 C0 D0', current: '0100', next: '1101', cow: 'A1 B2 -- D1', secondary: 'A1 B2 C0 D1' }],
  ['', 'the cycle ends with what was frozen at T2', [...deliver(B), ['declare']],
    { primary: 'A0 B0 C0 D0', current: 'none', next: '1101', cow: 'none', secondary: 'A1 B2 C0 D1' }],
  ['', 'the next cycle brings the restore, and only it', [['freeze'], ...deliver(A, B, D), ['declare']],
    { primary: 'A0 B0 C0 D0', current: 'none', next: '0000', cow: 'none', secondary: 'A0 B0 C0 D0' }],
]

t.test('FIG. 4A, state by state', async t => {
  const model = new CycleModel({ blocks: 4, writes: WRITTEN.length, keepAll: true })
  let state = model.initial
  t.comment('      primary      current  next  COW          secondary')
  for (const [time, what, actions, row] of EXAMPLE) {
    for (const step of model.follow(actions, state)) {
      state = step
      t.equal(model.wrong(state), undefined)
    }
    const { primary, current, next, cow, secondary } = shown(state)
    const cells = [time.padEnd(4), primary, current.padEnd(7), next, cow.padEnd(11), secondary]
    t.comment(`${cells.join('  ')}  ${what}`)
    t.strictSame(shown(state), row, `${time} ${what}`)
  }
  t.equal(image(state.declared), 'A0 B0 C0 D0')
})

t.test('what was declared on the way is what the host saw at the freezes', async t => {
  const model = new CycleModel({ blocks: 4, writes: WRITTEN.length, keepAll: true })
  const states = model.follow(EXAMPLE.flatMap(([, , actions]) => actions))
  const declared = states.map(state => image(state.declared))
  t.strictSame([...new Set(declared)], ['none', 'A0 B0 C0 D0', 'A1 B1 C0 D1', 'A1 B2 C0 D1'])
})

t.test('the host sees T0 as soon as the restore is answered', async t => {
  const model = new CycleModel({ blocks: 4, writes: WRITTEN.length, keepAll: true })
  const until = EXAMPLE.findIndex(([time]) => time === 'T3')
  const [restored] = model.follow([['restore']], model.follow(EXAMPLE.slice(0, until).flatMap(([, , actions]) => actions)).at(-1))
  t.equal(image(restored.truth), 'A0 B0 C0 D0')
  t.equal(map(restored.uncopied), '1101')
  t.equal(model.wrong(restored), undefined, 'which is what it reads')
})

t.test('of the COW image the cycle needs no more than what it has yet to send', async t => {
  const model = new CycleModel({ blocks: 4, writes: WRITTEN.length })
  const states = model.follow(EXAMPLE.flatMap(([, , actions]) => actions))
  const restored = states.findLast(({ cycle, restores }) => restores > 0 && cycle?.unsent === 0b0010)!
  t.equal(image(restored.cycle!.kept), '-- B2 -- --')
  t.equal(image(states.at(-1)!.secondary), 'A0 B0 C0 D0')
})
