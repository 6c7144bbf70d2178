// The model of periodic replication with restore: a slice of it (the whole: `make models`), and its 14 wrong variants.
import t from 'tap'
import { CycleModel, CYCLE_VARIANTS, type CycleVariant } from './cycle-model.js'
import { caught, holds, walks } from './model-tests.js'

t.setTimeout(300_000)

const SEED = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)

t.test('the design: 2 blocks, 2 writes, two snapshots', async t =>
  holds(t, new CycleModel({ blocks: 2, writes: 2, newer: true }), 108_638))
t.test('the design: 3 blocks, 1 write, two snapshots', async t =>
  holds(t, new CycleModel({ blocks: 3, writes: 1, newer: true }), 50_735))
t.test('the design: 2 blocks, 1 write, 2 edits, 2 restores, two snapshots', async t =>
  holds(t, new CycleModel({ blocks: 2, writes: 1, edits: 2, restores: 2, newer: true }), 117_932))

t.equal(Object.keys(CYCLE_VARIANTS).length, 14)
for (const [name, row] of Object.entries(CYCLE_VARIANTS)) {
  const bounds = { blocks: 2, writes: 3, newer: 'newer' in row }
  t.test(`${name}: ${row.does}`, async t => caught(t, new CycleModel(bounds, name as CycleVariant), row))
}

t.test('random traces', async t => walks(t, new CycleModel({ blocks: 4, writes: 60, edits: 8, restores: 6, newer: true }), SEED))
