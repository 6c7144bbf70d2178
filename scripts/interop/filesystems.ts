/**
 * Filesystems on a volume, by way of nbdfuse and a loop device: make, fill, stress, trim, check, kill the server,
 * attach afresh, compare every file. `node dist/scripts/interop/filesystems.js [ext4] [xfs] [btrfs]`, all by default.
 * SEED repeats a run. Skips with a reason where the machine cannot mount.
 */
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { createHash, randomBytes } from 'node:crypto'
import { LoopDisk, withoutLoopDisks } from './loop-disk.js'
import { Report } from './report.js'
import type { Check } from './report.js'
import { InteropServer } from './server.js'
import { $, PYTHON, ROOT, lacking, seedOfRun, until } from './tools.js'

const MIB = 2 ** 20
const JUNK_BYTES = 32 * MIB
const SMALL_FILES = 150
const CHURN_FILES = 2
/** Space is given back in the background, in batches. */
const RECLAIM_MS = 30_000

interface Kind {
  readonly tools: readonly string[]
  readonly make: (device: string) => Promise<unknown>
  readonly check: (device: string) => Promise<unknown>
}
export const FILESYSTEMS: Readonly<Record<string, Kind>> = {
  ext4: {
    tools: ['mkfs.ext4', 'e2fsck'],
    make: device => $`mkfs.ext4 -F -q ${device}`,
    check: device => $`e2fsck -fn ${device}`,
  },
  xfs: {
    tools: ['mkfs.xfs', 'xfs_repair'],
    make: device => $`mkfs.xfs -f -q ${device}`,
    check: device => $`xfs_repair -n ${device}`,
  },
  btrfs: {
    tools: ['mkfs.btrfs', 'btrfs'],
    make: device => $`mkfs.btrfs -f -q ${device}`,
    check: device => $`btrfs check ${device}`,
  },
}

/** `false`, or why this filesystem cannot be tried here. */
export async function cannotTry(name: string): Promise<string | false> {
  const known = (await readFile('/proc/filesystems', 'utf8')).split('\n').some(line => line.endsWith(`\t${name}`))
  return await withoutLoopDisks() || lacking(...FILESYSTEMS[name]!.tools, 'fio', 'fstrim', PYTHON)
    || (!known && (await $({ nothrow: true })`modprobe ${name}`).exitCode !== 0 && `this kernel has no ${name}`)
}

/** The whole course on one volume, which is overwritten. `churn` = operations per stressed file. */
export async function tryFilesystem(name: string, server: InteropServer, volume: string, check: Check, seed: number, churn: number): Promise<void> {
  const kind = FILESYSTEMS[name]!
  let disk = await LoopDisk.attach(server.uri(volume), server.dir)
  const steps: readonly [string, () => Promise<unknown>][] = [
    ['discard the whole device', () => $`blkdiscard ${disk.device}`],
    ['mkfs', () => kind.make(disk.device)],
    ['mount', () => disk.mount()],
    [`fill, ${CHURN_FILES} files under random operations, fio with verification (seed ${seed})`, () => fill(disk.mountPoint, seed, churn)],
    ['fstrim gives space back', () => trim(disk.mountPoint, server, volume)],
  ]
  let sums: Sums = {}
  try {
    for (const [title, step] of steps) if (!await check(`${name}: ${title}`, step)) return
    sums = await checksums(disk.mountPoint)
    if (!await check(`${name}: unmount`, () => disk.unmount())) return
    await check(`${name}: fsck`, () => kind.check(disk.device))
  } finally {
    await disk.detach()
  }
  await server.kill()
  await server.serve()
  disk = await LoopDisk.attach(server.tcpUri(volume), server.dir)
  try {
    if (!await check(`${name}: mount after kill -9 of the detached server`, () => disk.mount('-o', 'ro'))) return
    await check(`${name}: ${Object.keys(sums).length} checksums`, async () => {
      const now = await checksums(disk.mountPoint)
      const changed = Object.keys({ ...sums, ...now }).filter(file => sums[file] !== now[file])
      if (changed.length > 0) throw new Error(`changed: ${changed.join(', ')}`)
    })
  } finally {
    await disk.detach()
  }
}

/** Files of many sizes, two under random operations at once, one by fio; then a third of the small ones deleted. */
async function fill(directory: string, seed: number, churn: number): Promise<void> {
  const tree = join(directory, 'tree')
  await mkdir(tree)
  for (let index = 1; index <= SMALL_FILES; index++) await writeFile(join(tree, `f${index}`), randomBytes(index * 137))
  const fio = $({ cwd: directory })`fio --name=verified --directory=${directory} --size=24m --rw=randwrite --bsrange=4k-64k --ioengine=psync ${
    ['--fsync=64', '--verify=crc32c', '--verify_state_save=0', '--do_verify=1', '--minimal', `--randseed=${seed}`]}`
  const churning = Array.from({ length: CHURN_FILES }, (_, index) =>
    $`${PYTHON} ${join(ROOT, 'scripts/interop/churn.py')} ${join(directory, `churn${index}`)} ${churn} ${seed + index}`)
  await Promise.all([fio, ...churning])
  for (let index = 1; index <= SMALL_FILES; index += 3) await rm(join(tree, `f${index}`))
  await $`sync -f ${directory}`
}

/** Fills, deletes, trims: the volume's map must shrink at once, its space on disk soon. */
async function trim(directory: string, server: InteropServer, volume: string): Promise<void> {
  const show = async (): Promise<{ mappedBytes: number, allocatedBytes: number }> =>
    JSON.parse(await server.nbdelta('volume', 'show', volume, '--json'))
  await writeFile(join(directory, 'junk'), randomBytes(JUNK_BYTES))
  await $`sync -f ${directory}`
  const full = await show()
  await rm(join(directory, 'junk'))
  await $`sync -f ${directory}`
  await $`fstrim ${directory}`
  const trimmed = await show()
  const freed = full.mappedBytes - trimmed.mappedBytes
  if (freed < JUNK_BYTES * 0.75) throw new Error(`mapped went from ${full.mappedBytes} to ${trimmed.mappedBytes} bytes`)
  await until(`the volume to take ${JUNK_BYTES * 0.75} bytes less than ${full.allocatedBytes}`, RECLAIM_MS,
    async () => full.allocatedBytes - (await show()).allocatedBytes >= JUNK_BYTES * 0.75)
}

export type Sums = Record<string, string>
export async function checksums(directory: string): Promise<Sums> {
  const sums: Sums = {}
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath ?? entry.path, entry.name)
    sums[path] = createHash('sha256').update(await readFile(path)).digest('hex')
  }
  return sums
}

async function main(wanted: readonly string[]): Promise<void> {
  const report = new Report()
  const unknown = wanted.filter(name => !FILESYSTEMS[name])
  if (unknown.length > 0) throw new Error(`no such filesystem: ${unknown.join(', ')}; known: ${Object.keys(FILESYSTEMS).join(' ')}`)
  const seed = seedOfRun()
  const server = await InteropServer.start({ name: 'disk', size: '1GiB' })
  try {
    for (const name of wanted.length > 0 ? wanted : Object.keys(FILESYSTEMS)) {
      const why = await cannotTry(name)
      if (why) report.skip(name, why)
      else await tryFilesystem(name, server, 'disk', report.check, seed, 3000)
    }
  } finally {
    await server.close()
  }
  report.end()
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main(process.argv.slice(2))
