// FaultyDisk: each fault does what it says, when it says, and nothing else.
import t from 'tap'
import { FaultyDisk, ManualClock, MemoryDisk } from '../../src/device/testing.js'

const SIZE = 65536
const block = Buffer.alloc(4096, 7)
const content = (disk: MemoryDisk, offset: number, length: number): Buffer => disk.toBuffer().subarray(offset, offset + length)

t.test('the n-th matching request fails, no other, and leaves no trace', async t => {
  const memory = new MemoryDisk(SIZE)
  const disk = new FaultyDisk(memory, { faults: [{ on: 'write', nth: 2, range: [4096, 8192], effect: { kind: 'error', code: 'no-space' } }] })
  disk.write(4096, 512, block, 0)
  disk.write(0, 4096, block, 0)
  t.throws(() => disk.write(4608, 512, block, 0), { code: 'no-space', message: /injected/ })
  disk.write(4608, 10, block, 0)
  t.equal(content(memory, 4608, 11).toString('hex'), `${'07'.repeat(10)}00`)
  t.equal(disk.hits, 1)
})

t.test('a torn write arrives in part, cut at a sector', async t => {
  for (let seed = 1; seed <= 50; seed++) {
    const memory = new MemoryDisk(SIZE)
    const disk = new FaultyDisk(memory, { seed, faults: [{ on: 'write', effect: { kind: 'torn', code: 'io' } }] })
    t.throws(() => disk.write(100, 4096, block, 0), { code: 'io' })
    const image = memory.toBuffer()
    const end = image.lastIndexOf(7) + 1
    t.ok(end % 512 === 0 && end > 100 && end < 4196 && image.subarray(100, end).every(byte => byte === 7), `seed ${seed}: ends at ${end}`)
  }
})

t.test('lost writes and flushes report success', async t => {
  const memory = new MemoryDisk(SIZE)
  const disk = new FaultyDisk(memory, { faults: [{ on: ['write', 'flush'], effect: { kind: 'lost' } }] })
  t.equal(disk.write(0, 4096, block, 0), undefined)
  t.equal(disk.flush(), undefined)
  t.ok(memory.toBuffer().every(byte => byte === 0))
  disk.disarm()
  disk.write(0, 4096, block, 0)
  t.ok(content(memory, 0, 4096).equals(block))
})

t.test('delays run by the clock, hanging ones until released, and close waits for both', async t => {
  const clock = new ManualClock()
  const memory = new MemoryDisk(SIZE)
  const disk = new FaultyDisk(memory, { clock, faults: [{ on: 'write', effect: { kind: 'delay', delayMs: 50 } }] })
  const stopHanging = disk.arm({ on: 'read', effect: { kind: 'hang' } })
  const done: string[] = []
  const late = disk.write(0, 4096, block, 0)!.then(() => { done.push('write') })
  const hung = disk.read(0, 4096, Buffer.alloc(4096), 0)!.then(() => { done.push('read') })
  const closed = disk.close().then(() => { done.push('close') })
  await clock.advance(49)
  t.strictSame(done, [])
  await clock.advance(1)
  await late
  t.strictSame(done, ['write'])
  t.equal(disk.hanging, 1)
  stopHanging()
  disk.release()
  await Promise.all([hung, closed])
  t.strictSame(done, ['write', 'read', 'close'])
})

t.test('odds are seeded and about right', async t => {
  const run = (seed: number): string => {
    const disk = new FaultyDisk(new MemoryDisk(SIZE), { seed, faults: [{ on: 'flush', odds: 0.25, effect: { kind: 'error', code: 'io' } }] })
    return Array.from({ length: 400 }, () => { try { disk.flush(); return '.' } catch { return 'x' } }).join('')
  }
  t.equal(run(5), run(5))
  t.not(run(5), run(6))
  const failed = run(5).split('x').length - 1
  t.ok(failed > 60 && failed < 140, `${failed} of 400`)
})
