// Health: the quick timer behind the event loop's delay runs while requests come, and rests in a silence.
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { Health } from '../../src/health.js'

const SILENCE_MS = 11_000

t.test('delay is measured while requests come, and not in a silence', { timeout: 60_000 }, async t => {
  const warnings: object[] = []
  const client = { id: 1, address: 'unix', export: 'a', inFlight: 0, oldestMs: 0, ops: { read: 0 } }
  const health = new Health(() => [client], fields => { warnings.push(fields) })
  health.attached(1)
  t.teardown(() => { health.stop() })
  await sleep(300)
  const until = performance.now() + 250
  while (performance.now() < until);
  await sleep(300)
  t.ok(health.read().eventLoopDelayMaxMs > 100, 'a stall is seen')
  client.oldestMs = 6000
  await sleep(SILENCE_MS)
  t.equal(warnings.length, 2, 'an old request is told of, each time')
  health.read()
  const before = process.cpuUsage()
  await sleep(1500)
  t.equal(health.read().eventLoopDelayP99Ms, 0, 'nothing is measured')
  const { user, system } = process.cpuUsage(before)
  t.ok(user + system < 20_000, `${user + system} us of processor time in 1.5 s`)
  client.ops.read++
  await sleep(6000)
  const start = performance.now()
  while (performance.now() < start + 250);
  await sleep(300)
  t.ok(health.read().eventLoopDelayMaxMs > 100, 'and again once requests come')
})
