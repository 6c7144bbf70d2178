// A copy gives way to clients: as fast as it can without them, slower the more they ask for, and never slower than it says.
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { ManualClock } from '../../src/device/testing.js'
import { busyRateOf, Courtesy } from '../../src/replication/courtesy.js'
import type { CreateMirrorOptions } from '../../src/replication/mirrors.js'
import { ship } from '../../src/replication/ship.js'
import { until } from './held.js'
import { disk, fill, Lab, shown } from './lab.js'

const MIB = 2 ** 20
const BUSY_BYTES_PER_SECOND = 64 * MIB

/** Asks for pieces of a MiB beside so many requests a second; bytes that were let go in a second from `skipMs` on. */
async function bytesBeside(perSecond: number, skipMs = 100): Promise<number> {
  const clock = new ManualClock()
  let bytes = 0
  const courtesy = new Courtesy(clock, { requests: () => Math.floor(clock.now() / 1000 * perSecond), bytesPerSecond: BUSY_BYTES_PER_SECOND })
  const abort = new AbortController()
  const work = (async () => {
    while (!abort.signal.aborted) {
      await courtesy.wait(MIB, abort.signal)
      bytes += MIB
      // What copies it takes time as well: a GiB a second.
      await new Promise<void>(resolve => { clock.setTimeout(resolve, 1) })
    }
  })()
  for (let ms = 0; ms < skipMs; ms++) await clock.advance(1)
  const before = bytes
  for (let ms = 0; ms < 1000; ms++) await clock.advance(1)
  const result = bytes - before
  abort.abort()
  await clock.advance(1000)
  await work
  return result
}

t.test('without clients it goes as fast as it can', async t => {
  t.ok(await bytesBeside(0) >= 990 * MIB)
})

t.test('beside busy ones it takes what is left for it, however many they are', async t => {
  for (const perSecond of [20_000, 200_000]) {
    const bytes = await bytesBeside(perSecond)
    t.ok(bytes > 0.9 * BUSY_BYTES_PER_SECOND && bytes < 1.1 * BUSY_BYTES_PER_SECOND, `${bytes / MIB} MiB beside ${perSecond}`)
  }
})

t.test('in between it takes more the less they ask for', async t => {
  const half = await bytesBeside(10_000)
  const little = await bytesBeside(1000)
  t.ok(half > 1.5 * BUSY_BYTES_PER_SECOND && half < 2.5 * BUSY_BYTES_PER_SECOND, `${half / MIB} MiB beside 10,000`)
  t.ok(little > 400 * MIB, `${little / MIB} MiB beside 1,000`)
})

t.test('many who wait have their turns in order, and go at once when nobody waits for them any more', async t => {
  const clock = new ManualClock()
  let requests = 0
  const courtesy = new Courtesy(clock, { requests: () => requests, bytesPerSecond: BUSY_BYTES_PER_SECOND })
  clock.skip(50)
  requests = 50_000
  const abort = new AbortController()
  const order: number[] = []
  const warnings: string[] = []
  const warn = (warning: Error): void => { warnings.push(warning.name) }
  process.on('warning', warn)
  const all = Promise.all(Array.from({ length: 16 }, async (_, i) => {
    await courtesy.wait(BUSY_BYTES_PER_SECOND, abort.signal)
    order.push(i)
  }))
  // Within what is counted together, so that all of them are busy seconds.
  for (let i = 0; i < 5; i++, requests += 25_000) await clock.advance(500)
  t.strictSame(order, [0, 1, 2])
  abort.abort()
  await all
  t.strictSame(order, Array.from({ length: 16 }, (_, i) => i))
  await new Promise(resolve => { setImmediate(resolve) })
  process.off('warning', warn)
  t.strictSame(warnings, [], 'listeners of one signal are few')
})

t.test('it goes on as fast as it can when somebody waits for it', async t => {
  const clock = new ManualClock()
  let requests = 0
  const courtesy = new Courtesy(clock, { requests: () => requests, bytesPerSecond: MIB })
  const { signal } = new AbortController()
  let bytes = 0
  clock.skip(500)
  requests = 25_000
  const work = (async () => {
    for (; bytes < 100 * MIB; bytes += MIB) await courtesy.wait(MIB, signal)
  })()
  for (let i = 0; i < 10; i++, requests += 25_000) await clock.advance(500)
  t.ok(bytes < 10 * MIB, `${bytes}`)
  requests = 0
  await clock.advance(2000)
  await work
  t.equal(bytes, 100 * MIB)
})

t.test('a copy hears of clients, and a limit of its own is all that counts with one', async t => {
  const clock = new ManualClock()
  for (const bytesPerSecond of [null, 2 ** 40]) {
    let looks = 0
    const requests = (): number => {
      looks++
      return 0
    }
    const source = disk(4)
    const read = source.read.bind(source)
    source.read = (...args) => {
      clock.skip(50)
      return read(...args)
    }
    const { signal } = new AbortController()
    const runs = [0, 1].map(grain => ({ start: grain * 4096, end: (grain + 1) * 4096 }))
    await ship({
      source, target: disk(4), runs, compare: false, blank: false, bytesPerSecond, courtesy: { requests, bytesPerSecond: 1 }, clock, signal,
      onProgress: () => undefined,
    })
    t.equal(looks, bytesPerSecond === null ? 2 : 0)
  }
})

t.test('a cycle has half of its interval, a tenth where its target is a mixture meanwhile, and never less than 16 MiB a second', async t => {
  t.equal(busyRateOf(0, 10, true), 16 * MIB)
  t.equal(busyRateOf(80 * MIB, 10, true), 16 * MIB)
  t.equal(busyRateOf(10_000 * MIB, 10, true), 2000 * MIB)
  t.equal(busyRateOf(10_000 * MIB, 10, false), 10_000 * MIB)
})

interface Case {
  readonly what: string
  readonly options?: Partial<CreateMirrorOptions>
  readonly begin?: 'command' | 'first' | 'again'
  readonly isCourteous: boolean
}

const CASES: readonly Case[] = [
  { what: 'begun by its interval', isCourteous: true },
  { what: 'begun by a command', begin: 'command', isCourteous: false },
  { what: 'in front of a stream', options: { mode: 'async' }, isCourteous: false },
  { what: 'of a mirror whose lag is watched', options: { lagBytes: 2 ** 30 }, isCourteous: false },
  { what: 'that is the first', begin: 'first', isCourteous: false },
  { what: 'that is a further attempt', begin: 'again', isCourteous: false },
]
for (const { what, options, begin, isCourteous } of CASES) {
  t.test(`a cycle ${what} gives way to clients: ${isCourteous}`, async t => {
    const awake = setInterval(() => undefined, 1000)
    t.teardown(() => clearInterval(awake))
    const lab = await Lab.open(t.testdir())
    const volume = await lab.volume('v', 4)
    if (begin === 'first') await fill(volume, 1, 7)
    let looks = 0
    const watch = (): void => { Object.defineProperty(volume, 'requests', { get: () => looks++, set: () => undefined }) }
    if (begin === 'first') watch()
    const mirror = await lab.mirror({ volume: 'v', target: 'w', intervalSeconds: 1, ...options })
    if (begin !== 'first') {
      await mirror.sync()
      await fill(volume, 1, 7)
      watch()
    }
    const target = lab.store.get('w')!
    if (begin === 'again') {
      const write = target.write.bind(target)
      let failures = 1
      target.write = (...args) => {
        if (failures-- > 0) {
          // Those of the first attempt.
          looks = 0
          throw new NbdeltaError('io', 'planted')
        }
        return write(...args)
      }
    }
    if (begin === 'command') await mirror.sync()
    else await until('its time has come', async () => {
      await lab.clock.advance(1000)
      return (await shown(target))[1] === 7
    })
    t.equal(looks > 0, isCourteous)
    await lab.close()
  })
}
