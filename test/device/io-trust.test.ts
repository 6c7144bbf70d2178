// Inline calls are a privilege: probation, excused preemptions, a bucket of small waits, back-off that grows and heals.
import t from 'tap'
import { IoTrust, PROBATION_TRIPS } from '../../src/device/io-trust.js'

interface Lab {
  trust: IoTrust
  now: number
  /** What the kernel has counted. A slow call sleeps once and fetches 8 blocks, unless the test says otherwise. */
  usage: { voluntaryContextSwitches: number, involuntaryContextSwitches: number, fsRead: number | undefined }
  trips(count: number, tookMs: number): void
  slow(tookMs: number, waited?: boolean): string
}

/** A trust with a hand-moved clock and hand-counted usage. */
function lab(kind: 'read' | 'write' = 'read'): Lab {
  const usage: Lab['usage'] = { voluntaryContextSwitches: 5, involuntaryContextSwitches: 5, fsRead: 100 }
  const trust = new IoTrust(kind, () => ({ ...usage }))
  return {
    trust, usage, now: 1000,
    trips(count, tookMs) { for (let i = 0; i < count; i++) { this.now += tookMs; trust.tripDone(tookMs, this.now, true) } },
    slow(tookMs, waited = true) {
      this.now += tookMs
      if (waited) { usage.voluntaryContextSwitches++; usage.fsRead! += 8 }
      return trust.slowCall(tookMs, this.now)
    },
  }
}

t.test('a disk earns trust by fast trips in a row', async t => {
  const disk = lab()
  t.notOk(disk.trust.allows(disk.now))
  disk.trips(PROBATION_TRIPS - 1, 1)
  t.notOk(disk.trust.allows(disk.now))
  disk.trips(1, 20)
  disk.trips(PROBATION_TRIPS - 1, 1)
  t.notOk(disk.trust.allows(disk.now), 'one slow trip starts the count anew')
  disk.trips(1, 1)
  t.ok(disk.trust.allows(disk.now))
  t.equal(disk.trust.state(disk.now), 'inline')
})

t.test('a slow disk never gets it', async t => {
  const disk = lab()
  disk.trips(10_000, 8)
  t.notOk(disk.trust.allows(disk.now))
})

t.test('one long wait ends it; only trips begun after the ban count', async t => {
  const disk = lab()
  disk.trips(PROBATION_TRIPS, 0.1)
  t.equal(disk.slow(30), 'probation')
  disk.trips(100, 0.01)
  t.notOk(disk.trust.allows(disk.now), 'the ban of 20 ms is not over')
  disk.now += 20
  disk.trips(PROBATION_TRIPS, 0.1)
  t.ok(disk.trust.allows(disk.now))
})

t.test('a call during which the processor was taken away is excused, up to a point', async t => {
  const disk = lab()
  disk.trips(PROBATION_TRIPS, 0.1)
  for (let i = 0; i < 100; i++) {
    disk.usage.involuntaryContextSwitches++
    t.equal(disk.slow(6), 'excused')
  }
  disk.usage.involuntaryContextSwitches++
  disk.trust.sample()
  t.equal(disk.slow(6), 'probation', 'a switch seen before the call is no excuse')
  disk.now += 50
  disk.trips(PROBATION_TRIPS, 0.1)
  disk.usage.involuntaryContextSwitches++
  t.equal(disk.slow(31), 'probation', 'nor is any switch for 31 ms')
})

t.test('who never slept, or fetched nothing, has not waited for the disk', async t => {
  const disk = lab()
  disk.trips(PROBATION_TRIPS, 0.1)
  for (let i = 0; i < 100; i++) t.equal(disk.slow(200, false), 'excused', 'no voluntary switch')
  disk.usage.voluntaryContextSwitches++
  t.equal(disk.slow(200, false), 'excused', 'slept, but no block was read')
  const uncounted = lab()
  uncounted.usage.fsRead = undefined
  uncounted.trust.sample()
  uncounted.trips(PROBATION_TRIPS, 0.1)
  uncounted.usage.voluntaryContextSwitches++
  t.equal(uncounted.slow(20, false), 'probation', 'a kernel that does not count blocks proves nothing')
  const fresh = lab()
  fresh.usage.fsRead = 0
  fresh.trust.sample()
  fresh.trips(PROBATION_TRIPS, 0.1)
  fresh.usage.voluntaryContextSwitches++
  t.equal(fresh.slow(20, false), 'excused', 'a process that has fetched nothing so far has fetched nothing now')
  const writes = lab('write')
  writes.trips(PROBATION_TRIPS, 0.1)
  writes.usage.voluntaryContextSwitches++
  t.equal(writes.slow(20, false), 'probation', 'a write waits without fetching')
})

t.test('rare small waits are borne, frequent ones mean rest, then inline again', async t => {
  const disk = lab()
  disk.trips(PROBATION_TRIPS, 0.1)
  for (let i = 0; i < 200; i++) {
    disk.now += 30
    t.equal(disk.slow(1), 'waited', 'below 5 % of the time')
  }
  let waits = 0
  while (disk.slow(1) === 'waited') waits++
  t.ok(waits < 12, `${waits} ms of waiting in a row`)
  t.equal(disk.trust.state(disk.now), 'resting')
  t.notOk(disk.trust.allows(disk.now))
  t.ok(disk.trust.allows(disk.now + 25), 'without probation')
})

t.test('back-offs double up to ten seconds and heal after a good time', async t => {
  const disk = lab()
  const bans: number[] = []
  const ban = (): void => {
    disk.trips(PROBATION_TRIPS, 0.1)
    if (!disk.trust.allows(disk.now)) t.fail('not trusted')
    disk.slow(40)
    const from = disk.now
    while (!disk.trust.allows(disk.now)) { disk.now += 0.5; disk.trips(1, 0.5) }
    bans.push(Math.round((disk.now - from) / 20))
  }
  for (let i = 0; i < 12; i++) ban()
  t.ok(bans[1] >= 1.9 * bans[0] && bans[4] >= 14 * bans[0], bans.join(' '))
  t.ok(Math.max(...bans) * 20 <= 10_020, bans.join(' '))
  disk.now += 200_000
  ban()
  t.ok(bans.at(-1)! <= 2, `after a good time ${bans.at(-1)}`)
})

t.test('a medium slower than 25 ms is kept from inline reads while anyone sees it slow, and for a time after', async t => {
  const disk = lab()
  disk.trips(PROBATION_TRIPS, 0.1)
  disk.trips(1, 100)
  t.notOk(disk.trust.allows(disk.now), 'cached pages are read through the pool, too')
  disk.trips(1000, 1)
  t.notOk(disk.trust.allows(disk.now), 'for 4 s')
  disk.now += 3000
  disk.trips(PROBATION_TRIPS, 1)
  t.ok(disk.trust.allows(disk.now))
  disk.trust.tripDone(100, disk.now, false)
  t.ok(disk.trust.allows(disk.now), 'a slow trip that fetched nothing says nothing about the medium')
  const writes = lab('write')
  writes.trips(PROBATION_TRIPS, 0.1)
  writes.trips(1, 100)
  t.ok(writes.trust.allows(writes.now), 'writes are judged by themselves')
})

t.test('a failed trip is no reason to trust', async t => {
  const disk = lab()
  disk.trips(PROBATION_TRIPS, 0.1)
  disk.trust.distrust(disk.now)
  t.equal(disk.trust.state(disk.now), 'probation')
  t.notOk(disk.trust.allows(disk.now))
})
