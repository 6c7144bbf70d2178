// Backpressure: who may stage how much while what is staged is moved.
import t from 'tap'
import { ManualClock } from '../../src/device/testing.js'
import { Backpressure } from '../../src/volume/backpressure.js'

const MIB = 2 ** 20
const turn = () => new Promise(resolve => { setImmediate(resolve) })

t.test('below the mark nobody waits; above it as much is taken as is moved', async t => {
  const pressure = new Backpressure(new ManualClock())
  t.equal(pressure.admit(0.75, 700 * MIB, MIB), 'now')
  t.equal(pressure.admit(0.76, 700 * MIB, 4096), 'later')
  pressure.moved(8192)
  t.same([4096, 4096, 4096].map(bytes => pressure.admit(0.76, 700 * MIB, bytes)), ['now', 'now', 'later'])
  pressure.moved(4096)
  t.equal(pressure.admit(0.5, 0, 4096), 'now')
  t.equal(pressure.admit(0.76, 700 * MIB, 4096), 'later', 'credit does not outlast the pressure')
  t.end()
})

t.test('those who wait go on in their order, each when there is enough for it', async t => {
  const pressure = new Backpressure(new ManualClock())
  const gone: string[] = []
  for (const [name, bytes] of [['a', 4096], ['b', 65536], ['c', 4096]] as const) void pressure.wait(bytes).then(() => { gone.push(name) })
  t.ok(pressure.isAwaited)
  pressure.moved(8192)
  await turn()
  t.strictSame(gone, ['a'], 'c does not overtake b')
  t.equal(pressure.admit(0.9, MIB, 4096), 'now')
  pressure.moved(65536 + 4096)
  await turn()
  t.strictSame(gone, ['a', 'b', 'c'])
  t.notOk(pressure.isAwaited)
})

t.test('nothing can be moved: nobody waits for that, until something is moved again', async t => {
  const pressure = new Backpressure(new ManualClock())
  let gone = false
  void pressure.wait(4096).then(() => { gone = true })
  pressure.ended(true)
  await turn()
  t.ok(gone)
  t.equal(pressure.admit(0.9, MIB, 4096), 'never')
  pressure.moved(512)
  t.equal(pressure.admit(0.9, MIB, 4096), 'later')
})

t.test('tightened, a quarter of what is moved is taken, and a little always', t => {
  const pressure = new Backpressure(new ManualClock())
  pressure.tighten()
  t.equal(pressure.admit(0.1, 8 * MIB, 4096), 'now')
  t.equal(pressure.admit(0.1, 8 * MIB + 1, 4096), 'later')
  pressure.moved(4 * 4096)
  t.same([4096, 4096].map(bytes => pressure.admit(0.1, 9 * MIB, bytes)), ['now', 'later'])
  pressure.tighten()
  pressure.loosen()
  t.equal(pressure.admit(0.1, 9 * MIB, 4096), 'later', 'somebody else waits still')
  pressure.loosen()
  t.equal(pressure.admit(0.1, 9 * MIB, 4096), 'now')
  t.end()
})

t.test('what was admitted and not taken may be taken later', t => {
  const pressure = new Backpressure(new ManualClock())
  pressure.moved(4096)
  t.equal(pressure.admit(0.9, MIB, 4096), 'now')
  pressure.giveBack(4096)
  t.equal(pressure.admit(0.9, MIB, 4096), 'now')
  t.end()
})

t.test('while a disk flushes those who wait go on at the rate of late, as far as is made up for in a moment', async t => {
  const clock = new ManualClock()
  const pressure = new Backpressure(clock)
  const gone: number[] = []
  const ask = (bytes: number): void => {
    void pressure.wait(bytes).then(() => {
      if (pressure.admit(0.9, 9 * MIB, bytes) === 'now') gone.push(bytes)
      else ask(bytes)
    })
  }
  /** A MiB each 10 ms, taken at once. */
  for (let i = 0; i < 50; i++) {
    await clock.advance(10)
    pressure.moved(MIB)
    t.equal(pressure.admit(0.9, 9 * MIB, MIB), 'now')
  }
  for (let i = 0; i < 80; i++) ask(MIB / 4)
  for (let ms = 0; ms < 50; ms++) {
    await clock.advance(1)
    await turn()
  }
  t.ok(gone.length >= 18 && gone.length <= 20, `${gone.length} quarters in 50 ms`)
  for (let ms = 0; ms < 900; ms++) {
    await clock.advance(1)
    await turn()
  }
  const most = gone.length
  t.ok(most === 63 || most === 64, `${most}: no more than 16 MiB, however long it takes`)
  pressure.moved(16 * MIB)
  await turn()
  t.equal(gone.length, most, 'that was given in advance')
  pressure.moved(MIB)
  await turn()
  t.equal(gone.length, most + 4)
})
