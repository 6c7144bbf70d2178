// Whoever comes after a failed write is told, and never waits for a batch that nobody will send.
import t from 'tap'
import { MemoryDisk } from '../../src/device/testing.js'
import { BatchWriter } from '../../src/store/batch-writer.js'

class FailingLate extends MemoryDisk {
  override write(): Promise<void> { return Promise.reject(new Error('no')) }
}

t.test('D7: a record after a failed write is refused at once', async t => {
  const writer = new BatchWriter(new FailingLate(4096), 0, 0)
  writer.reserve(8)
  const first = writer.commit(8, 1)
  await t.rejects(first!, { message: 'no' })
  writer.reserve(8)
  t.throws(() => writer.commit(8, 2), { message: 'no' })
  await t.rejects(writer.reached(2), { message: 'no' })
})
