// HolePunch: one child for many ranges, none left behind, dead ones replaced, no hole after its parent is gone.
import { spawn } from 'node:child_process'
import { chmodSync, closeSync, existsSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { systemClock } from '../../src/device/clock.js'
import { findFallocate, HolePunch } from '../../src/device/hole-punch.js'

/** The stand-in for the tool, made executable. */
function tool(folder: string): string {
  const path = join(folder, 'fallocate')
  chmodSync(path, 0o755)
  return path
}
/** A stand-in that notes each call behind its parent's number, and then does what `body` says. */
const script = (body: string): string => `#!/bin/sh\necho "$PPID $*" >> "$0.log"\n${body}\n`
const calls = (path: string): string[] =>
  existsSync(`${path}.log`) ? readFileSync(`${path}.log`, 'latin1').trim().split('\n') : []
const parents = (path: string): Set<string> => new Set(calls(path).map(line => line.split(' ')[0]))

t.test('the real tool is found along PATH', async t => {
  const folder = t.testdir({ fallocate: script(''), other: {} })
  tool(folder)
  t.equal(await findFallocate(`${join(folder, 'other')}:${folder}`), join(folder, 'fallocate'))
  t.equal(await findFallocate(join(folder, 'other')), undefined)
})

t.test('one child serves many ranges, in pieces, and goes when asked', async t => {
  const folder = t.testdir({ image: 'x', fallocate: script('') })
  const path = tool(folder)
  const fd = openSync(join(folder, 'image'), 'r+')
  const punch = new HolePunch(fd, path, systemClock)
  const first = await Promise.all([
    punch.run('punch', 0, 4096), punch.run('allocate', 8192, 4096), punch.run('punch', 0, 600 * 2 ** 20),
  ])
  t.strictSame(first, [true, true, true])
  t.equal(await punch.run('punch', 4096, 10), true)
  t.strictSame(calls(path).map(line => line.replace(/^\d+ /, '')), [
    '--punch-hole -o 0 -l 4096 /proc/self/fd/3', '--zero-range -o 8192 -l 4096 /proc/self/fd/3',
    '--punch-hole -o 0 -l 268435456 /proc/self/fd/3', '--punch-hole -o 268435456 -l 268435456 /proc/self/fd/3',
    '--punch-hole -o 536870912 -l 92274688 /proc/self/fd/3', '--punch-hole -o 4096 -l 10 /proc/self/fd/3',
  ])
  const [child] = parents(path)
  t.equal(parents(path).size, 1)
  await punch.close()
  t.notOk(existsSync(`/proc/${child}`), 'no child is left')
  closeSync(fd)
})

t.test('a child that dies without a word is replaced once', async t => {
  const dies = script('if [ ! -e "$0.once" ]; then touch "$0.once"; kill -9 $PPID; sleep 0.05; fi')
  const folder = t.testdir({ image: 'x', fallocate: dies })
  const path = tool(folder)
  const fd = openSync(join(folder, 'image'), 'r+')
  const punch = new HolePunch(fd, path, systemClock)
  t.equal(await punch.run('punch', 0, 4096), true)
  t.equal(parents(path).size, 2)
  t.ok(punch.can('punch'))
  await punch.close()
  closeSync(fd)
})

t.test('an error of one range is not the end of all', async t => {
  const fails = script('if [ "$3" = 4096 ]; then echo "fallocate failed: Input/output error" >&2; exit 1; fi')
  const folder = t.testdir({ image: 'x', fallocate: fails })
  const path = tool(folder)
  const fd = openSync(join(folder, 'image'), 'r+')
  const punch = new HolePunch(fd, path, systemClock)
  const done = await Promise.all([0, 4096, 8192].map(offset => punch.run('punch', offset, 4096)))
  t.strictSame(done, [true, false, true])
  t.ok(punch.can('punch'))
  await punch.close()
  closeSync(fd)
})

t.test('D1: when the server is killed, ranges that were queued are never punched', async t => {
  const folder = t.testdir({ image: 'x', fallocate: script('sleep 0.2') })
  const path = tool(folder)
  const module = new URL('../../src/device/hole-punch.js', import.meta.url).pathname
  const clock = new URL('../../src/device/clock.js', import.meta.url).pathname
  const program = `import { openSync } from 'node:fs'; import { HolePunch } from '${module}'
    import { systemClock } from '${clock}'
    const punch = new HolePunch(openSync('${join(folder, 'image')}', 'r+'), '${path}', systemClock);
    for (let i = 0; i < 50; i++) punch.run('punch', i * 8192, 4096)`
  const server = spawn(process.execPath, ['--input-type=module', '-e', program], { stdio: 'inherit' })
  while (calls(path).length < 2) await sleep(20)
  server.kill('SIGKILL')
  const at = calls(path).length
  await sleep(1000)
  t.ok(calls(path).length <= at + 1, `${at} at the kill, ${calls(path).length} a second later`)
})
