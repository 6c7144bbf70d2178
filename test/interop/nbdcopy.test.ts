// nbdcopy in and out, with one and with several connections, over both transports: every byte arrives, holes stay holes.
import { randomBytes } from 'node:crypto'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking } from '../../scripts/interop/tools.js'

const MIB = 2 ** 20

/** 96 MiB: data, a hole, data, zeros that were written, a hole, data up to the end. */
async function sample(path: string): Promise<void> {
  const file = await open(path, 'w')
  await file.truncate(96 * MIB)
  await file.write(randomBytes(16 * MIB), 0, 16 * MIB, 0)
  await file.write(randomBytes(3 * MIB + 517), 0, 3 * MIB + 517, 32 * MIB + 1)
  await file.write(Buffer.alloc(8 * MIB), 0, 8 * MIB, 48 * MIB)
  await file.write(randomBytes(MIB), 0, MIB, 95 * MIB)
  await file.close()
}

t.test('nbdcopy', { skip: lacking('nbdcopy', 'nbdinfo', 'cmp') }, async t => {
  const server = await InteropServer.start({ name: 'unix', size: '96MiB' }, { name: 'tcp', size: '96MiB' }, { name: 'copy', size: '96MiB' })
  t.teardown(() => server.close())
  const image = join(server.dir, 'image')
  await sample(image)
  const uris = { unix: server.uri('unix'), tcp: server.tcpUri('tcp') }

  for (const transport of ['unix', 'tcp'] as const) {
    t.test(`${transport}: in and out with cmp, 4 connections and 1`, async t => {
      const uri = uris[transport]
      await $`nbdcopy --connections=4 --flush ${image} ${uri}`
      for (const how of [['--connections=4'], ['--connections=1', '--requests=1'], ['--synchronous'], ['--allocated']]) {
        const out = join(server.dir, `${transport}.out`)
        await $`rm -f ${out}`
        await $`nbdcopy ${how} ${uri} ${out}`
        await t.resolves($`cmp ${image} ${out}`, how.join(' '))
      }
    })
  }

  t.test('from export to export, by way of both transports', async t => {
    await $`nbdcopy ${uris.unix} ${server.tcpUri('copy')}`
    await t.resolves($`nbdcopy ${server.uri('copy')} - | cmp ${image} -`)
  })

  t.test('holes of the source are holes of the volume', async t => {
    const totals = (await $`nbdinfo --map --totals ${uris.unix}`).stdout
    const data = Number(/^\s*(\d+)\s.*\bdata$/m.exec(totals)?.[1])
    t.ok(data >= 20 * MIB && data <= 29 * MIB, `${data} bytes of data of 96 MiB:\n${totals}`)
  })

  t.test('the volume is right after a clean restart', async t => {
    t.equal((await server.terminate()).code, 0)
    await server.serve()
    await t.resolves($`nbdcopy ${uris.unix} - | cmp ${image} -`)
    await t.resolves($`nbdcopy ${uris.tcp} - | cmp ${image} -`)
  })
})
