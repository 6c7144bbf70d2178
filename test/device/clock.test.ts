// ManualClock: timers fire at their instant, in order, only when time is moved.
import t from 'tap'
import { ManualClock, systemClock } from '../../src/device/clock.js'

t.test('timers fire in order and may set further ones', async t => {
  const clock = new ManualClock()
  const fired: string[] = []
  clock.setTimeout(() => { fired.push(`late ${clock.now()}`) }, 20)
  clock.setTimeout(() => {
    fired.push(`early ${clock.now()}`)
    clock.setTimeout(() => { fired.push(`nested ${clock.now()}`) }, 5)
  }, 10)
  const never = clock.setTimeout(() => { fired.push('never') }, 12)
  never.cancel()
  await clock.advance(9)
  t.strictSame(fired, [])
  await clock.advance(20)
  t.strictSame(fired, ['early 10', 'nested 15', 'late 20'])
  t.equal(clock.now(), 29)
  t.equal(clock.pending, 0)
  t.equal(clock.wallTime().getTime() - new ManualClock().wallTime().getTime(), 29)
})

t.test('the system clock runs and its timers can be cancelled', async t => {
  const before = systemClock.now()
  systemClock.setTimeout(() => t.fail('cancelled'), 1).cancel()
  await new Promise<void>(resolve => { systemClock.setTimeout(resolve, 5, true) })
  t.ok(systemClock.now() - before >= 4)
})

t.test('a timer of more than 24 days does not fire at once', async t => {
  const timer = systemClock.setTimeout(() => t.fail('fired'), 2 ** 33)
  await new Promise<void>(resolve => { systemClock.setTimeout(resolve, 20, true) })
  timer.cancel()
})
