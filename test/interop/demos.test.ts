// What a person is shown is true: both demonstrations run to their end, say `identical`, and leave nothing behind.
import { readFileSync, readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { $, ROOT, lacking } from '../../scripts/interop/tools.js'

t.setTimeout(300_000)

for (const name of ['demo-replication', 'demo-restore']) {
  t.test(name, { skip: lacking('qemu-img', 'qemu-io') }, async t => {
    const { exitCode, stdout, stderr } = await $({ nothrow: true })`${process.execPath} ${join(ROOT, 'dist', 'scripts', `${name}.js`)}`
    t.equal(exitCode, 0, stderr.slice(-2000))
    t.equal(stdout.trimEnd().split('\n').at(-1), 'identical', exitCode === 0 ? 'it says so' : stdout.slice(-2000))
    const folders = new Set(stdout.match(/nbdelta-interop-\w+/g))
    t.ok(folders.size >= 2, 'two servers')
    t.same(readdirSync(tmpdir()).filter(folder => folders.has(folder)), [], 'no folder stays')
    t.same(readFileSync('/proc/mounts', 'utf8').split('\n').filter(line => [...folders].some(folder => line.includes(folder))), [], 'no mount stays')
  })
}
