// Z6: growth is seen by new clients and usable on old connections; shrinking is refused while a client is attached.
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking } from '../../scripts/interop/tools.js'
import { ENOSPC, WireClient } from './wire-client.js'

const MIB = 2 ** 20

t.test('Z6: resize online', { skip: lacking('nbdinfo', 'qemu-io') }, async t => {
  const server = await InteropServer.start({ name: 'grows', size: '64MiB' })
  t.teardown(() => server.close())
  const old = await WireClient.connect(server.socketPath, 'grows')
  t.teardown(() => old.destroy())
  const data = Buffer.alloc(8192, 0x77)

  t.test('before: the end is the end', async t => {
    await t.rejects(old.write(64 * MIB - 4096, data), { name: 'WireError', errno: ENOSPC })
    await old.write(64 * MIB - 8192, data)
  })
  t.test('grow: an old connection uses the new range at once', async t => {
    await server.nbdelta('volume', 'resize', 'grows', '--size', '3GiB')
    t.equal(old.sizeBytes, 64 * MIB, 'it was told the old size')
    await old.write(64 * MIB - 4096, data)
    await old.write(3072 * MIB - 8192, data)
    t.strictSame(await old.read(3072 * MIB - 12288, 12288), Buffer.concat([Buffer.alloc(4096), data]))
  })
  t.test('grow: new clients see the new size and the data', async t => {
    t.equal((await $`nbdinfo --size ${server.tcpUri('grows')}`).stdout.trim(), String(3072 * MIB))
    await t.resolves($`qemu-io -f raw -c ${`read -P 0x77 ${64 * MIB - 8192} 12288`} -c ${`read -P 0x77 ${3072 * MIB - 8192} 8192`} ${server.uri('grows')}`)
  })
  t.test('shrink is refused while a client is attached, and works afterwards', async t => {
    await t.rejects(server.nbdelta('volume', 'resize', 'grows', '--size', '32MiB', '--shrink'))
    t.equal((await old.read(64 * MIB, 512)).length, 512, 'the attached client goes on')
    await old.disconnect()
    await server.nbdelta('volume', 'resize', 'grows', '--size', '32MiB', '--shrink')
    t.equal((await $`nbdinfo --size ${server.uri('grows')}`).stdout.trim(), String(32 * MIB))
  })
  t.test('what was cut off does not come back when it grows again', async t => {
    await server.nbdelta('volume', 'resize', 'grows', '--size', '64MiB')
    await t.resolves($`qemu-io -f raw -c ${`read -P 0 ${32 * MIB} 32M`} ${server.uri('grows')}`)
  })
  t.test('the size is durable', async t => {
    await server.kill()
    await server.serve()
    t.equal((await $`nbdinfo --size ${server.uri('grows')}`).stdout.trim(), String(64 * MIB))
  })
})
