/**
 * Installs the Debian packages that tests, the kernel guest or the benchmark use: `node scripts/deps.mjs GROUP...`.
 * Plain Node without node_modules, because it runs before they are there.
 *
 * Installs only what is missing, quietly, without recommended packages and without starting any daemon. Never
 * fails the build: where it cannot install (not root, no apt-get, no network) it says in one line what is missing,
 * and the tests that need it are skipped with that reason.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync, writeFileSync } from 'node:fs'

const GROUPS = {
  tests: [
    'libnbd-bin', 'python3-libnbd', 'qemu-utils', 'nbdkit', 'nbd-client', 'fio', 'fuse3', 'e2fsprogs', 'xfsprogs', 'btrfs-progs',
    'util-linux', 'mount', 'diffutils', 'nbd-server',
  ],
  kernel: ['qemu-system-x86', 'nbd-client', 'e2fsprogs', 'xfsprogs', 'btrfs-progs', 'busybox', 'cpio', 'kmod', 'xz-utils', 'zstd', 'gcc', 'libc6-dev'],
  bench: ['nbdkit', 'qemu-utils', 'nbd-server', 'libnbd-bin', 'fio', 'gcc', 'libc6-dev'],
}
/** Debian's own switch for "start no service now" (101 = forbidden); written only if nobody else has. */
const POLICY = '/usr/sbin/policy-rc.d'
const APT = ['-y', '-qq', '--no-install-recommends', '-o', 'Dpkg::Use-Pty=0', '-o', 'DPkg::Lock::Timeout=120']
const APT_MS = 15 * 60_000

/** Those of `names` that dpkg does not know as installed. */
function missing(names) {
  const answer = spawnSync('dpkg-query', ['-W', '-f', '${Package} ${db:Status-Status}\n', ...names], { encoding: 'utf8' })
  const installed = new Set(answer.stdout.split('\n').filter(line => line.endsWith(' installed')).map(line => line.split(' ')[0]))
  return names.filter(name => !installed.has(name))
}

function apt(...args) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', NEEDRESTART_SUSPEND: '1' }
  const run = spawnSync('apt-get', args, { encoding: 'utf8', env, timeout: APT_MS, stdio: ['ignore', 'pipe', 'pipe'] })
  const lastError = `${run.error?.message ?? ''}\n${run.stderr ?? ''}`.split('\n').filter(line => /\S/.test(line)).pop()
  return { ok: run.status === 0, why: lastError ?? `apt-get ended with ${run.status ?? run.signal}` }
}

/** All at once; if that fails (a release may lack one of them) one by one, so that one gap does not cost the rest. */
function install(names) {
  console.log(`deps: installing ${names.join(' ')}`)
  const update = apt('update', '-qq')
  if (!update.ok) console.log(`deps: apt-get update: ${update.why}`)
  const together = apt('install', ...APT, ...names)
  if (!together.ok) for (const name of names) {
    const alone = apt('install', ...APT, name)
    if (!alone.ok) console.log(`deps: cannot install ${name}: ${alone.why}`)
  }
}

const groups = process.argv.slice(2)
const unknown = groups.filter(group => !GROUPS[group])
if (groups.length === 0 || unknown.length > 0) {
  console.error(`usage: node scripts/deps.mjs GROUP...   groups: ${Object.keys(GROUPS).join(' ')}`)
  process.exit(2)
}
const wanted = [...new Set(groups.flatMap(group => GROUPS[group]))]
const has = tool => spawnSync(tool, ['--version'], { stdio: 'ignore' }).error === undefined
if (!has('apt-get') || !has('dpkg-query')) {
  console.log('deps: no apt-get here; tests that need a tool which is absent are skipped and counted')
} else if (missing(wanted).length > 0) {
  if (process.getuid() !== 0) {
    console.log(`deps: not root, so not installed: ${missing(wanted).join(' ')}; tests that need them are skipped and counted`)
  } else {
    const ours = !existsSync(POLICY)
    if (ours) writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
    try { install(missing(wanted)) } finally { if (ours) rmSync(POLICY, { force: true }) }
    const left = missing(wanted)
    if (left.length > 0) console.log(`deps: still missing: ${left.join(' ')}; tests that need them are skipped and counted`)
  }
}
