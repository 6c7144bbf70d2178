// The spinner under a clock of our own: it spins where that shortens the gaps, and only there.
import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { Spinner } from '../../src/nbd/spinner.js'

/** Serves `count` single requests, `gapMs(spinning)` apart. */
function serve(spinner: Spinner, clock: { ms: number }, count: number, gapMs: (spinning: boolean) => number): void {
  for (let i = 0; i < count; i++) {
    clock.ms += gapMs(spinner.spins)
    spinner.served(1, 4096)
  }
}

t.test('spinning that halves the gaps is kept, and tried again later', async t => {
  const clock = { ms: 1000 }
  const spinner = new Spinner(true, () => clock.ms)
  serve(spinner, clock, 200, (spinning) => spinning ? 0.02 : 0.05)
  t.equal(spinner.spins, true)
  serve(spinner, clock, 4040, (spinning) => spinning ? 0.02 : 0.05)
  t.equal(spinner.spins, false, 'a new trial')
  clock.ms += 1
})

t.test('spinning that saves nothing is given up', async t => {
  const clock = { ms: 1000 }
  const spinner = new Spinner(true, () => clock.ms)
  serve(spinner, clock, 200, () => 0.03)
  t.equal(spinner.spins, false)
})

t.test('never for slow trains, for depth, for streams, or when switched off', async t => {
  for (const [what, enabled, gap, requests, bytes] of [
    ['slow', true, 0.5, 1, 4096], ['deep', true, 0.02, 3, 12288], ['stream', true, 0.02, 1, 65536],
    ['off', false, 0.02, 1, 512], ['nothing', true, 0.02, 0, 0],
  ] as const) {
    const clock = { ms: 1000 }
    const spinner = new Spinner(enabled, () => clock.ms)
    for (let i = 0; i < 200; i++) {
      clock.ms += gap
      spinner.served(requests, bytes)
      t.equal(spinner.spins, false, what)
    }
  }
})

t.test('it ends by itself once no request follows', async t => {
  const clock = { ms: 1000 }
  let looks = 0
  const spinner = new Spinner(true, () => { looks++; return clock.ms })
  serve(spinner, clock, 150, (spinning) => spinning ? 0.01 : 0.05)
  t.equal(spinner.spins, true)
  for (let i = 0; i < 5; i++) await turn()
  t.ok(looks > 152, 'it turns')
  clock.ms += 1
  for (let i = 0; i < 5; i++) await turn()
  const before = looks
  for (let i = 0; i < 20; i++) await turn()
  t.equal(looks, before, 'and stops')
})
