// Every device of this floor passes the suite; the suite itself catches planted faults.
import { join } from 'node:path'
import t from 'tap'
import { openFileDisk } from '../../src/device/file-disk.js'
import {
  blockDeviceConformance, DiskArray, type Fault, FaultyDisk, MemoryDisk, ProbeDisk, type Supports,
} from '../../src/device/testing.js'

const seed = Number(process.env.SEED ?? 1)
const file = (directory: string, inline: boolean) => {
  let serial = 0
  return (sizeBytes: number) => openFileDisk({ path: join(directory, `disk-${serial++}`), create: { sizeBytes }, inline })
}

const memory = async (size: number): Promise<MemoryDisk> => new MemoryDisk(size)
const delays: readonly Fault[] = [
  { on: ['read', 'write', 'zero', 'trim', 'flush'], odds: 0.3, effect: { kind: 'delay', delayMs: 0 } },
]
const zeros: Supports = { seed, knowsZeros: true }

t.test('memory', t => blockDeviceConformance(t, 'memory', memory, { ...zeros, ordersOverlaps: true }))
t.test('memory, odd size and late flush', t => blockDeviceConformance(t, 'odd',
  async size => new MemoryDisk(size, { lateFlush: true }), { ...zeros, seed: seed + 1, sizeBytes: 3 * 2 ** 20 + 1234 }))
t.test('recording', t => blockDeviceConformance(t, 'recording', async size => new DiskArray({ a: size }).disk('a'), zeros))
t.test('file, inline', t => blockDeviceConformance(t, 'file', file(t.testdir(), true), { seed }))
t.test('file, pooled', t => blockDeviceConformance(t, 'pooled', file(t.testdir(), false), { seed: seed + 1, requests: 500 }))
t.test('faulty without faults', t => blockDeviceConformance(t, 'faulty', async size => new FaultyDisk(await memory(size)), zeros))
t.test('faulty with delays', t => blockDeviceConformance(t, 'late',
  async size => new FaultyDisk(await memory(size), { seed, faults: delays }), { seed, requests: 400 }))
t.test('probe', t => blockDeviceConformance(t, 'probe', async size => new ProbeDisk(await memory(size)), zeros))

/** Wraps a memory disk and breaks one promise. */
class Broken extends MemoryDisk {
  constructor(size: number, private readonly fault: string) { super(size) }
  override write(offset: number, length: number, from: Buffer, at: number): undefined {
    if (this.fault === 'short write' && length > 4096) length -= 1
    if (this.fault === 'wrong place' && offset >= 2 ** 20) offset -= 512
    super.write(offset, length, from, at)
  }
  override zero(offset: number, length: number, mode: { allocate: boolean, fast: boolean }): undefined {
    if (this.fault === 'zero keeps the edge' && length > 1) length -= 1
    super.zero(offset, length, mode)
  }
  override trim(offset: number, length: number): undefined {
    if (this.fault === 'trim takes more') super.zero(Math.max(0, offset - 1), length, { allocate: false, fast: false })
    else super.trim(offset, length)
  }
  override zeroRun(offset: number, length: number): number {
    return this.fault === 'lies about zeros' ? -length : super.zeroRun(offset, length)
  }
  override async close(): Promise<void> {
    if (this.fault !== 'open for ever') await super.close()
  }
}

const faults = ['short write', 'wrong place', 'zero keeps the edge', 'trim takes more', 'lies about zeros', 'open for ever']
for (const fault of faults) {
  t.test(`the suite catches: ${fault}`, async t => {
    let problems = 0
    const counter = { equal: (found: unknown, wanted: unknown): void => { if (found !== wanted) problems++ } }
    await blockDeviceConformance(counter, fault, async size => new Broken(size, fault))
    t.ok(problems > 0, `${problems} checks failed`)
  })
}

t.test('the suite passes on the unbroken twin', async t => {
  await blockDeviceConformance(t, 'twin', async size => new Broken(size, 'none'), zeros)
})
