// A part of a device is a device, and leaves the rest alone.
import t from 'tap'
import { blockDeviceConformance } from '../../src/device/conformance.js'
import { FaultyDisk } from '../../src/device/faulty-disk.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { SliceDevice } from '../../src/device/slice.js'

t.test('conformance', async t => {
  for (const start of [0, 4096, 777]) {
    const factory = async (size: number): Promise<SliceDevice> => new SliceDevice(new MemoryDisk(start + size + 5000), start, size)
    await blockDeviceConformance(t, `slice from ${start}`, factory, { knowsZeros: start % 4096 === 0, ordersOverlaps: true })
  }
})

t.test('what lies around it stays as it is, whatever is asked of it', async t => {
  const inner = MemoryDisk.from(Buffer.alloc(3 * 8192, 0x5a))
  const slice = new SliceDevice(inner, 8192, 8192)
  await slice.write(0, 8192, Buffer.alloc(8192, 1), 0)
  await slice.zero(0, 8192, { allocate: false, fast: false })
  await slice.trim(0, 8192)
  for (const [offset, length] of [[-1, 2], [8191, 2], [8192, 1], [0, 8193]]) t.throws(() => slice.read(offset, length, Buffer.alloc(length), 0), RangeError)
  const bytes = inner.toBuffer()
  t.ok(bytes.subarray(0, 8192).equals(Buffer.alloc(8192, 0x5a)))
  t.ok(bytes.subarray(2 * 8192).equals(Buffer.alloc(8192, 0x5a)))
})

t.test('it lies inside its device, on the device\'s blocks', async t => {
  const inner = new MemoryDisk(8192, { blockSizes: { minimum: 512 } })
  t.throws(() => new SliceDevice(inner, 4096, 4097), RangeError)
  t.throws(() => new SliceDevice(inner, 100, 512), RangeError)
})

t.test('closed, it waits for what runs, and leaves its device open', async t => {
  const inner = new FaultyDisk(new MemoryDisk(8192), { faults: [{ on: 'write', nth: 1, effect: { kind: 'hang' } }] })
  const slice = new SliceDevice(inner, 4096, 4096)
  const order: string[] = []
  const writing = slice.write(0, 512, Buffer.alloc(512, 1), 0)
  const closing = slice.close().then(() => { order.push('closed') })
  setImmediate(() => {
    order.push('released')
    inner.release()
  })
  await Promise.all([writing, closing])
  t.strictSame(order, ['released', 'closed'])
  t.throws(() => slice.flush(), { code: 'wrong-state' })
  await inner.flush()
})
