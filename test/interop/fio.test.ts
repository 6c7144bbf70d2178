// fio writes at random from four connections at depth 16 and verifies every block; mixed sizes, trims and syncs too.
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking, seedOfRun } from '../../scripts/interop/tools.js'

const JOBS = 4
interface Report { readonly jobs: readonly { readonly error: number, readonly read: { readonly io_bytes: number }, readonly write: { readonly io_bytes: number } }[] }

async function withoutNbdEngine(): Promise<string | false> {
  const lacks = lacking('fio')
  if (lacks) return lacks
  return !/^\s*nbd$/m.test((await $`fio --enghelp`).stdout) && 'this fio was built without its nbd engine'
}

t.test('fio with verification', { skip: await withoutNbdEngine() }, async t => {
  const server = await InteropServer.start({ name: 'fio', size: '256MiB' })
  t.teardown(() => server.close())
  const seed = seedOfRun()
  const workloads: Readonly<Record<string, readonly string[]>> = {
    '4 KiB random writes': ['--rw=randwrite', '--bs=4k', '--size=16m'],
    '512 bytes to 64 KiB, unaligned, with syncs': ['--rw=randwrite', '--bsrange=512-64k', '--bs_unaligned', '--size=24m', '--fsync=50'],
    'sequential 1 MiB': ['--rw=write', '--bs=1m', '--size=64m'],
  }
  for (const [title, options] of Object.entries(workloads)) for (const uri of [server.uri('fio'), server.tcpUri('fio')]) {
    t.test(`${title} over ${uri.startsWith('nbd+unix') ? 'unix' : 'tcp'}, ${JOBS} connections at depth 16`, async t => {
      const job = ['--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--iodepth=16', `--numjobs=${JOBS}`, '--offset_increment=64m', ...options,
        `--randseed=${seed}`, '--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--do_verify=1', '--group_reporting']
      const { stdout, stderr } = await $({ nothrow: true, cwd: server.dir })`fio --output-format=json ${job}`
      const report = JSON.parse(stdout.slice(stdout.indexOf('{'))) as Report
      t.equal(report.jobs[0]!.error, 0, `no job failed (seed ${seed}) ${stderr.slice(-500)}`)
      t.ok(report.jobs[0]!.write.io_bytes >= JOBS * 16 * 2 ** 20)
      t.ok(report.jobs[0]!.read.io_bytes >= report.jobs[0]!.write.io_bytes, 'all of it was read back')
    })
  }
})
