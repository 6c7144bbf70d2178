// The log tells who came, what they did, and when they left, also when they left in good order.
import t from 'tap'
import { silentLogger, type LogFacts } from '../../src/device/logger.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { createServer } from '../../src/nbd/server.js'
import { attach } from './support/session.js'

t.test('attach and detach are logged in pairs', async t => {
  const path = `${t.testdir()}/s`
  const lines: LogFacts[] = []
  const server = await createServer({
    exports: { disk: new MemoryDisk(8192) }, listen: [{ path }],
    logger: { ...silentLogger, info: (facts, text) => { lines.push({ ...facts, text }) } },
  })
  const session = await attach({ path }, { name: 'disk' })
  await session.write(0, Buffer.alloc(4096, 1))
  await session.write(8192, Buffer.alloc(512))
  await session.disconnect()
  await server.close({ deadlineMs: 5000 })
  t.match(lines, [
    { text: 'client attached', client: 1, export: 'disk' },
    { text: 'client detached', client: 1, export: 'disk', bytesRead: 0, bytesWritten: 4096, errors: { ENOSPC: 1 } },
  ])
  t.equal(lines.length, 2)
})
