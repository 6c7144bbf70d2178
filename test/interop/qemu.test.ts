// qemu-img and qemu-io: info, convert in and out, compare, map, patterns, discard, zeroes, verified.
import { join } from 'node:path'
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking } from '../../scripts/interop/tools.js'

const MIB = 2 ** 20
interface MapRow { readonly start: number, readonly length: number, readonly zero: boolean, readonly data: boolean }

t.test('qemu', { skip: lacking('qemu-img', 'qemu-io') }, async t => {
  const server = await InteropServer.start({ name: 'image', size: '64MiB' }, { name: 'io', size: '64MiB' }, { name: 'map', size: '64MiB' })
  t.teardown(() => server.close())
  /** Rejects if a command fails or a pattern is not there. */
  const io = (uri: string, ...commands: string[]) => $`qemu-io -f raw ${commands.flatMap(command => ['-c', command])} ${uri}`

  t.test('qemu-img info', async t => {
    const info = JSON.parse((await $`qemu-img info --output=json ${server.uri('image')}`).stdout)
    t.match(info, { 'virtual-size': 64 * MIB, 'format': 'raw' })
  })

  for (const [transport, uri] of [['unix', server.uri('image')], ['tcp', server.tcpUri('image')]] as const) {
    t.test(`${transport}: convert in and out, compare`, async t => {
      const [raw, qcow, back] = [join(server.dir, 'raw'), join(server.dir, `${transport}.qcow2`), join(server.dir, 'back')]
      await $`rm -f ${raw} ${qcow} ${back} && truncate -s 64M ${raw}`
      await io(raw, 'write -P 0x5a 0 5M', 'write -P 0xa5 20971777 3000001', 'write -P 0x11 66060288 1M')
      await $`qemu-img convert -f raw -O qcow2 ${raw} ${qcow}`
      await $`qemu-img convert -n -f qcow2 -O raw -W -m 16 ${qcow} ${uri}`
      t.match((await $`qemu-img compare -f qcow2 -F raw ${qcow} ${uri}`).stdout, /Images are identical/)
      await $`qemu-img convert -f raw -O raw ${uri} ${back}`
      await t.resolves($`cmp ${raw} ${back}`)
    })
  }

  t.test('qemu-io: patterns, unaligned, discard, zeroes, flush, verified over the other transport', async t => {
    await io(server.uri('io'), 'write -P 1 0 64M', 'write -P 2 1M 1M', 'write -P 3 2097665 12345', 'aio_write -P 4 8M 1M', 'aio_flush',
      'write -z 16M 1M', 'write -z 18874881 70000', 'write -z -u 20M 4M', 'discard 32M 16M', 'write -P 5 33M 64k', 'write -f -P 6 34M 512', 'flush')
    await t.resolves(io(server.tcpUri('io'), 'read -P 1 0 1M', 'read -P 2 1M 1M', 'read -P 1 2M 513', 'read -P 3 2097665 12345',
      'read -P 4 8M 1M', 'read -P 0 16M 1M', 'read -P 1 17M 513', 'read -P 0 18874881 70000', 'read -P 1 18944881 4096', 'read -P 0 20M 4M',
      'read -P 5 33M 64k', 'read -P 6 34M 512', 'read -P 1 48M 16M'))
  })

  t.test('a check that finds nothing wrong can find something wrong', async t => {
    await t.rejects(io(server.uri('io'), 'read -P 9 0 1M'), /verification failed/)
  })

  t.test('qemu-img map shows what was written', async t => {
    await io(server.uri('map'), 'write -P 7 1M 1M', 'write -P 8 32M 64k', 'write -P 9 40M 1M', 'write -z -u 40M 512k', 'flush')
    const rows = JSON.parse((await $`qemu-img map --output=json -f raw ${server.uri('map')}`).stdout) as MapRow[]
    t.strictSame(rows.filter(row => row.data && !row.zero).map(row => [row.start, row.length]),
      [[MIB, MIB], [32 * MIB, 65536], [40 * MIB + MIB / 2, MIB / 2]])
    t.ok(rows.filter(row => !row.data).every(row => row.zero), 'what is no data reads as zeros')
  })
})
