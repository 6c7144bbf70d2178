// Backpressure: who may stage how much while what is staged is moved.
import t from 'tap'
import { Backpressure } from '../../src/volume/backpressure.js'

const MIB = 2 ** 20
const turn = () => new Promise(resolve => { setImmediate(resolve) })

t.test('below the mark nobody waits; above it as much is taken as is moved', async t => {
  const pressure = new Backpressure()
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
  const pressure = new Backpressure()
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
  const pressure = new Backpressure()
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
  const pressure = new Backpressure()
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
  const pressure = new Backpressure()
  pressure.moved(4096)
  t.equal(pressure.admit(0.9, MIB, 4096), 'now')
  pressure.giveBack(4096)
  t.equal(pressure.admit(0.9, MIB, 4096), 'now')
  t.end()
})
