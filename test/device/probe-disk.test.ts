// ProbeDisk: counts what passes, what fails and how long it took.
import t from 'tap'
import { FaultyDisk, ManualClock, MemoryDisk, ProbeDisk } from '../../src/device/testing.js'

t.test('requests, bytes, errors, time', async t => {
  const clock = new ManualClock()
  const faulty = new FaultyDisk(new MemoryDisk(65536), { clock, faults: [
    { on: 'read', nth: 2, effect: { kind: 'delay', delayMs: 3 } },
    { on: 'read', nth: 3, effect: { kind: 'error', code: 'io' } },
  ] })
  const probe = new ProbeDisk(faulty, { clock })
  const buffer = Buffer.alloc(4096)
  probe.write(0, 4096, buffer, 0)
  probe.read(0, 4096, buffer, 0)
  const late = probe.read(0, 512, buffer, 0)
  t.equal(probe.stats().read.inFlight, 1)
  await clock.advance(3)
  await late
  t.throws(() => probe.read(0, 100, buffer, 0), { code: 'io' })
  probe.flush()
  probe.zero(0, 10, { allocate: false, fast: false })
  probe.trim(0, 10)
  const { read, write, flush, zero, trim } = probe.stats()
  t.match(read, { requests: 3, bytes: 4096 + 512 + 100, errors: 1, inFlight: 0, totalMs: 3, slowestMs: 3 })
  t.equal(read.buckets[0], 2, 'two took no time')
  t.equal(read.buckets[12], 1, '3,000 us are below 2^12 and not below 2^11')
  t.match([write, flush, zero, trim].map(({ requests, errors }) => [requests, errors]), [[1, 0], [1, 0], [1, 0], [1, 0]])
  t.not(probe.stats(), probe.stats(), 'a snapshot, not the thing itself')
})
