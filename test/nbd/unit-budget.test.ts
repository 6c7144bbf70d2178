// S7 Z7: the budget: nobody can take what was promised to others, and every byte comes back.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { Budget } from '../../src/nbd/budget.js'
import { ALLOTMENT_BYTES, DEFAULT_LIMITS, LARGE_SLAB_BYTES, resolveLimits, SMALL_SLAB_BYTES } from '../../src/nbd/limits.js'

const limits = (memoryBytes: number, connectionBytes = DEFAULT_LIMITS.connectionBytes) => ({ ...DEFAULT_LIMITS, memoryBytes, connectionBytes })

t.test('a connection that cannot get its allotment is refused', async t => {
  const budget = new Budget(limits(2 * ALLOTMENT_BYTES))
  const first = budget.admit()!
  t.ok(budget.admit())
  t.equal(budget.admit(), undefined)
  first.end()
  t.ok(budget.admit(), 'room again')
})

t.test('one connection takes the whole shared part; another one still has its own', async t => {
  const budget = new Budget(limits(2 * ALLOTMENT_BYTES + 3 * LARGE_SLAB_BYTES))
  const greedy = budget.admit()!
  const modest = budget.admit()!
  const slabs = Array.from({ length: 3 }, () => greedy.take('large')!)
  t.equal(greedy.take('large'), undefined)
  t.equal(modest.take('large'), undefined)
  t.equal(budget.usedBytes, 2 * ALLOTMENT_BYTES + 3 * LARGE_SLAB_BYTES)
  for (let i = 0; i < ALLOTMENT_BYTES / SMALL_SLAB_BYTES; i++) t.ok(modest.takeOwn())
  t.equal(modest.takeOwn(), undefined)
  slabs[0]!.retire()
  t.ok(modest.take('large'))
})

t.test('the cap of one connection', async t => {
  const budget = new Budget(limits(2 ** 30, 2 * LARGE_SLAB_BYTES))
  const greedy = budget.admit()!
  t.ok(greedy.take('large'))
  t.ok(greedy.take('large'))
  t.equal(greedy.take('large'), undefined)
})

t.test('a pinned slab comes back with its last pin, an ended connection with its last slab', async t => {
  const budget = new Budget(limits(2 ** 24))
  const allotment = budget.admit()!
  const slab = allotment.take('large')!
  slab.pin()
  slab.pin()
  slab.retire()
  allotment.end()
  slab.unpin()
  t.equal(budget.usedBytes, ALLOTMENT_BYTES + LARGE_SLAB_BYTES)
  slab.unpin()
  t.equal(budget.usedBytes, 0)
  t.equal(budget.peakBytes, ALLOTMENT_BYTES + LARGE_SLAB_BYTES)
  t.throws(() => slab.unpin(), 'once too often')
})

t.test('limits: unknown names and bad numbers are refused in words', async t => {
  t.equal(resolveLimits({ connections: 3 }).connections, 3)
  for (const bad of [{ conections: 3 }, { connections: 0 }, { connections: 1.5 }, { memoryBytes: 1000 }, { extents: 2 ** 20 }]) {
    t.throws(() => resolveLimits(bad as object), NbdeltaError, JSON.stringify(bad))
  }
})
