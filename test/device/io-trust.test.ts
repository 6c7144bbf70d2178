// Inline calls are a privilege: probation, excused preemptions, a bucket of small waits, back-off that grows and heals.
import t from 'tap'
import { IoTrust, PROBATION_TRIPS } from '../../src/device/io-trust.js'

/** A trust with a hand-moved clock and a hand-counted scheduler. */
function lab(): { trust: IoTrust, now: number, switches: number, trips: (count: number, tookMs: number) => void, slow: (tookMs: number) => string } {
  const state = {
    now: 1000, switches: 5, trust: undefined as unknown as IoTrust,
    trips(count: number, tookMs: number) { for (let i = 0; i < count; i++) { state.now += tookMs; state.trust.tripDone(tookMs, state.now) } },
    slow(tookMs: number) { state.now += tookMs; return state.trust.slowCall(tookMs, state.now) },
  }
  state.trust = new IoTrust(() => state.switches)
  return state
}

t.test('a disk earns trust by fast trips in a row', async t => {
  const disk = lab()
  t.notOk(disk.trust.allows(disk.now))
  disk.trips(PROBATION_TRIPS - 1, 1)
  t.notOk(disk.trust.allows(disk.now))
  disk.trips(1, 50)
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
    disk.switches++
    t.equal(disk.slow(6), 'excused')
  }
  disk.switches++
  disk.trust.sample()
  t.equal(disk.slow(6), 'probation', 'a switch seen before the call is no excuse')
  disk.now += 50
  disk.trips(PROBATION_TRIPS, 0.1)
  disk.switches++
  t.equal(disk.slow(13), 'probation', 'nor is any switch for 13 ms')
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
    disk.slow(20)
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

t.test('a failed trip is no reason to trust', async t => {
  const disk = lab()
  disk.trips(PROBATION_TRIPS, 0.1)
  disk.trust.distrust(disk.now)
  t.equal(disk.trust.state(disk.now), 'probation')
  t.notOk(disk.trust.allows(disk.now))
})
