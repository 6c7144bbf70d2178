// The benchmark's own arithmetic: names, medians, which peer counts as the best, when a goal is missed.
import t from 'tap'
import { judge, renderReport, summaryOf } from '../../scripts/bench/report.js'
import { median, medianOf, ratioOf } from '../../scripts/bench/results.js'
import type { Comparison } from '../../scripts/bench/results.js'
import { expandNames, goalsOf, isStream, parseWorkload } from '../../scripts/bench/workloads.js'

const sample = (rate: number, cpuUs: number) => ({ rate, cpuUs, p99Us: 0 })
const comparison: Comparison = {
  when: '2025-01-01', rounds: 3, seconds: 1,
  samples: {
    'nbdelta': [sample(200, 2), sample(100, 2), sample(300, 2)],
    'nbdkit': [sample(100, 4), sample(50, 4), sample(100, 4)],
    'qemu-nbd': [sample(10, 20), sample(10, 20), null],
    'nbd-server': [sample(160, 2.2), sample(80, 2.2), sample(240, 2.2)],
  },
}

t.test('medians and ratios are taken round by round, failed rounds left out', async t => {
  t.equal(median([3, 1, 2]), 2)
  t.equal(median([4, 1, 2, 3]), 2.5)
  t.ok(Number.isNaN(median([])))
  t.equal(medianOf(comparison, 'nbdelta', 'rate'), 200)
  t.equal(medianOf(comparison, 'qemu-nbd', 'rate'), 10)
  t.equal(ratioOf(comparison, 'nbdelta', 'nbdkit', 'rate'), 2)
  t.equal(ratioOf(comparison, 'nbdelta', 'qemu-nbd', 'rate'), 15)
})

t.test('a goal is judged against the peer that leaves the worst ratio', async t => {
  const [rate, cpu] = judge('lean-randread-4k-d16', comparison)
  t.match(rate, { peer: 'nbd-server', ratio: 1.25, met: true, goal: { bound: 1.2 } })
  t.match(cpu, { peer: 'nbd-server', met: false, goal: { metric: 'cpu', bound: 0.8 } })
  t.match(judge('lean-randread-4k-d64', comparison)[0], { ratio: 1.25, met: false, goal: { bound: 2 } })
  t.match(summaryOf('lean-randread-4k-d64', comparison), 'missed')
})

t.test('streams are held against nbdkit; without it there is no verdict', async t => {
  t.match(judge('copy-in', comparison), [{ peer: 'nbdkit', ratio: 2, met: true }])
  const { nbdkit, ...others } = comparison.samples
  t.ok(nbdkit)
  t.strictSame(judge('copy-in', { ...comparison, samples: others }), [])
})

t.test('names', async t => {
  t.match(parseWorkload('fio-randwrite-4k-d16-c4-tcp'),
    { client: 'fio', kind: 'randwrite', blockBytes: 4096, depth: 16, connections: 4, transport: 'tcp' })
  t.ok(isStream(parseWorkload('fio-read-1m-d4')))
  t.notOk(isStream(parseWorkload('cold-randread-4k-d32')))
  t.throws(() => expandNames('lean,nonsense'), /no workload 'nonsense'/)
  t.equal(expandNames('lean,lean-randread-4k-d16').length, 4)
  for (const name of expandNames('all').filter(name => name.includes('-'))) t.ok(goalsOf(parseWorkload(name)).length > 0, name)
})

t.test('the report names every workload, and what was missed', async t => {
  const text = renderReport({
    comparisons: { 'lean-randread-4k-d16': comparison },
    specials: { idle: { when: '2025-01-02', figures: [{ what: 'CPU in 10 s', value: 11, unit: 'ms', limit: 10 }] } },
  })
  t.match(text, '1 of 3 goals met')
  t.match(text, '| lean-randread-4k-d16 | 200 (2.0) |')
  t.match(text, '**missed** (<= 10 ms)')
})
