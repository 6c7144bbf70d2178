// nbdinfo sees what is there: plain, JSON, list, size, capabilities, and a map that equals what was written.
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, PYTHON, lacking } from '../../scripts/interop/tools.js'

const MIB = 2 ** 20
/** The first release of nbdinfo that asks for extended headers. */
const EXTENDED_SINCE = [1, 18]
const skip = lacking('nbdinfo', 'nbdsh')

interface Described {
  readonly protocol: string
  readonly exports: readonly (Record<string, unknown> & { readonly 'export-name': string, readonly 'export-size': number, readonly contexts?: string[] })[]
}
interface Mapped { readonly offset: number, readonly length: number, readonly type: number, readonly description: string }

t.test('nbdinfo', { skip }, async t => {
  const server = await InteropServer.start({ name: 'one', size: '64MiB' }, { name: 'two', size: '3GiB' })
  t.teardown(() => server.close())

  for (const [transport, uri] of [['unix', server.uri('one')], ['tcp', server.tcpUri('one')]] as const) {
    t.test(`${transport}: plain, --size, --is, --can`, async t => {
      t.match((await $`nbdinfo ${uri}`).stdout, /export-size: 67108864/)
      t.equal((await $`nbdinfo --size ${uri}`).stdout.trim(), String(64 * MIB))
      for (const what of ['flush', 'fua', 'trim', 'zero', 'fast-zero', 'multi-conn', 'df', 'cache', 'write']) {
        t.equal((await $({ nothrow: true })`nbdinfo --can ${what} ${uri}`).exitCode, 0, `can ${what}`)
      }
      t.not((await $({ nothrow: true })`nbdinfo --is read-only ${uri}`).exitCode, 0, 'is not read-only')
    })
  }

  t.test('I1, I3, I4: --json tells sizes, flags and contexts', async t => {
    const { protocol, exports } = JSON.parse((await $`nbdinfo --json ${server.uri('two')}`).stdout) as Described
    t.equal(protocol, 'newstyle-fixed')
    t.match(exports[0], {
      'export-name': 'two', 'export-size': 3072 * MIB, 'is_read_only': false, 'can_flush': true, 'can_fua': true, 'can_multi_conn': true,
      'can_trim': true, 'can_zero': true, 'can_fast_zero': true, 'can_cache': true, 'can_df': true,
      'block_size_minimum': 1, 'block_size_preferred': 4096, 'block_size_maximum': 32 * MIB,
    })
    t.ok(exports[0]!.contexts?.includes('base:allocation'))
  })

  t.test('E1: a client that knows extended headers gets them', async t => {
    const version = /(\d+)\.(\d+)/.exec((await $`nbdinfo --version`).stdout)!.slice(1).map(Number)
    const knows = version[0]! > EXTENDED_SINCE[0]! || version[1]! >= EXTENDED_SINCE[1]!
    t.match((await $`nbdinfo ${server.uri('two')}`).stdout, knows ? /using extended/ : /using structured/, `nbdinfo ${version.join('.')}`)
  })

  t.test('LIST: --list shows every volume', async t => {
    const { exports } = JSON.parse((await $`nbdinfo --list --json ${server.uri('')}`).stdout) as Described
    t.strictSame(exports.map(one => [one['export-name'], one['export-size']]), [['one', 64 * MIB], ['two', 3072 * MIB]])
  })

  t.test('I5: an export that is not there is a clear error', async t => {
    const { exitCode, stderr } = await $({ nothrow: true })`nbdinfo ${server.uri('three')}`
    t.not(exitCode, 0)
    t.match(stderr, /three/)
  })

  t.test('B1, C9: --map equals what was written, trimmed and zeroed', async t => {
    const script = ['h.pwrite(b"x" * 1048576, 1048576)', 'h.pwrite(b"y" * 4096, 33554432)', 'h.pwrite(b"z" * 131072, 50331648)',
      'h.trim(65536, 50331648)', 'h.zero(4096, 50401280, nbd.CMD_FLAG_NO_HOLE)', 'h.flush()'].join('\n')
    await $`${PYTHON} -c ${`import nbd\nh = nbd.NBD()\nh.connect_uri("${server.uri('one')}")\n${script}\nh.shutdown()`}`
    const map = JSON.parse((await $`nbdinfo --map --json ${server.uri('one')}`).stdout) as Mapped[]
    t.strictSame(map.map(({ offset, length, type }) => [offset, length, type]), [
      [0, MIB, 3], [MIB, MIB, 0], [2 * MIB, 30 * MIB, 3], [32 * MIB, 4096, 0], [32 * MIB + 4096, 16 * MIB - 4096 + 65536, 3],
      [48 * MIB + 65536, 65536, 0], [48 * MIB + 131072, 16 * MIB - 131072, 3],
    ])
    const totals = (await $`nbdinfo --map --totals ${server.uri('one')}`).stdout
    t.match(totals, new RegExp(`${MIB + 4096 + 65536}\\s.*data`))
  })
})
