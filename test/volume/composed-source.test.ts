// What inherited grains read as: whoever reads while a restore ends gets what was there.
import t from 'tap'
import type { Pending } from '../../src/device/block-device.js'
import { MemoryDisk } from '../../src/device/testing.js'
import { ComposedSource } from '../../src/volume/composed-source.js'

/** Reads wait until `go`. */
class Waiting extends MemoryDisk {
  go = (): void => undefined
  override read(offset: number, length: number, into: Buffer, at: number): Pending {
    return new Promise<void>(resolve => { this.go = resolve }).then(() => super.read(offset, length, into, at))
  }
}

t.test('it is closed behind the reads that are under way', async t => {
  const inside = new Waiting(4096)
  const source = new ComposedSource(inside, 0, 4096, undefined)
  const reading = source.read(0, 100, Buffer.alloc(100), 0)
  let isClosed = false
  const closing = source.close().then(() => { isClosed = true })
  await new Promise(resolve => { setImmediate(resolve) })
  t.notOk(isClosed)
  inside.go()
  // A memory disk that is closed refuses it.
  await reading
  await closing
  t.ok(isClosed)
})
