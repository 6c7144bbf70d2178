/**
 * The Linux kernel's NBD client in a QEMU guest against our server on the host: attach with several connections,
 * filesystems, kill -9 of the server under a writer without an I/O error, growth while mounted.
 *
 *   node dist/scripts/interop/kernel.js [--suite trixie] [--phases attach,filesystems,reconnect,resize]
 *                                       [--filesystems ext4,xfs,btrfs]
 *
 * The guest is emulated (no /dev/kvm needed), has no disk and sees the host only through QEMU's user network.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { pathToFileURL } from 'node:url'
import { packGuest } from './guest-image.js'
import { guestKernel } from './guest-kernel.js'
import { Report } from './report.js'
import { InteropServer } from './server.js'
import { $, ROOT, lacking, which } from './tools.js'

/** Without cx16 because QEMU 7.2's emulation of cmpxchg16b sometimes leaves wrong flags and the guest dies in kmalloc. */
const MACHINE = ['-accel', 'tcg,thread=multi', '-cpu', 'max,-cx16,-la57', '-smp', '2', '-m', '1024', '-nodefaults', '-no-user-config', '-no-reboot',
  '-display', 'none']
const COMMAND_LINE = 'console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable random.trust_cpu=on'
const HOST_SEEN_BY_GUEST = '10.0.2.2'
const CONNECTIONS = 4
const BLOCK = 4096
const VOLUME = 'disk'
const VOLUME_MIB = 640
const GUEST_MS = 900_000
const FS_PROGRAMS: Readonly<Record<string, readonly string[]>> = {
  ext4: ['mkfs.ext4', 'e2fsck', 'resize2fs'], xfs: ['mkfs.xfs', 'xfs_repair'], btrfs: ['mkfs.btrfs', 'btrfs'],
}
export const PHASES = ['attach', 'filesystems', 'reconnect', 'resize'] as const

export interface GuestRun {
  readonly phases: readonly string[]
  readonly filesystems: readonly string[]
  /** A Debian release; undefined = this machine's own. */
  readonly suite?: string | undefined
}

/** What hears of the guest's steps. */
export interface Listener {
  judged(title: string, good: boolean): void
  note(line: string): void
}

/** `false`, or why no guest can be run here. Downloads the kernel if it is not there yet. */
export async function cannotRunGuest(suite?: string): Promise<string | false> {
  if (process.arch !== 'x64') return `the guest is an x86-64 machine, this is ${process.arch}`
  const absent = lacking('qemu-system-x86_64', 'busybox', 'nbd-client', 'cpio', 'modprobe', 'depmod', 'gcc', 'apt-get', 'xz', 'zstd', 'mkfs.ext4')
  return absent || guestKernel(suite).then(() => false, error => `no guest kernel to be had: ${/^\s*E: .*/m.exec(String(error))?.[0].trim() ?? error}`)
}

/** Boots the guest, serves its requests, passes on its verdicts; ends when the guest ends. */
export async function runGuest(run: GuestRun, listener: Listener): Promise<void> {
  const kernel = await guestKernel(run.suite)
  const server = await InteropServer.start({ name: VOLUME, size: `${VOLUME_MIB}MiB` })
  const tool = join(server.dir, 'nbdnl')
  let guest: ChildProcess | undefined
  try {
    await $`gcc -O2 -Wall -o ${tool} ${join(ROOT, 'scripts/interop/nbdnl.c')}`
    const initramfs = await packGuest(server.dir, {
      kernel,
      modules: [...new Set(['virtio_pci', 'virtio_net', 'nbd', 'ext4', ...run.filesystems])],
      programs: ['nbd-client', tool, 'blkdiscard', ...[...new Set(['ext4', ...run.filesystems])].flatMap(name => FS_PROGRAMS[name]!)],
      settings: {
        HOST: HOST_SEEN_BY_GUEST, PORT: server.port, NAME: VOLUME, CONNECTIONS, BLOCK, FILESYSTEMS: run.filesystems.join(' '),
        PHASES: run.phases.join(' '), MEBIBYTES: 32,
      },
    })
    const control = join(server.dir, 'guest.sock')
    const talking = converse(control, server, listener)
    guest = spawn(which('qemu-system-x86_64')!, [...MACHINE, '-kernel', kernel.image, '-initrd', initramfs, '-append', COMMAND_LINE,
      '-chardev', `file,id=console,path=${join(server.dir, 'console')}`, '-serial', 'chardev:console',
      '-chardev', `socket,id=control,path=${control}`, '-serial', 'chardev:control',
      '-netdev', 'user,id=net0', '-device', 'virtio-net-pci,netdev=net0,romfile='], { stdio: ['ignore', 'ignore', 'inherit'] })
    const gone = new Promise<void>(resolve => guest!.once('close', () => resolve()))
    const late = setTimeout(() => guest?.kill('SIGKILL'), GUEST_MS)
    await gone
    clearTimeout(late)
    const finished = await talking
    const console = finished ? '' : (await readFile(join(server.dir, 'console'), 'utf8')).slice(-3000)
    listener.judged(`the guest came to its end${console ? `; the last it said: ${console}` : ''}`, finished)
  } finally {
    guest?.kill('SIGKILL')
    await server.close()
  }
}

/** Listens for the guest's lines and answers its requests; resolves when the line ends: whether the guest said "end". */
async function converse(path: string, server: InteropServer, listener: Listener): Promise<boolean> {
  await rm(path, { force: true })
  const door = createServer()
  await new Promise<void>(resolve => door.listen(path, resolve))
  const socket = await new Promise<Socket>(resolve => door.once('connection', resolve))
  let finished = false
  for await (const line of createInterface({ input: socket })) {
    const [, kind, text = ''] = /^(\w+) ?(.*)$/.exec(line.trim()) ?? []
    if (kind === 'ok' || kind === 'no') listener.judged(text, kind === 'ok')
    else if (kind === 'note') listener.note(`         ${text}`)
    else if (kind === 'do') socket.write(`${await obey(server, text).then(() => 'done', error => `failed: ${String(error).split('\n')[0]}`)}\n`)
    else if (kind === 'end') finished = true
  }
  door.close()
  return finished
}

async function obey(server: InteropServer, request: string): Promise<void> {
  const [verb, argument] = request.split(' ')
  if (verb === 'kill') await server.kill()
  else if (verb === 'start') await server.serve()
  else if (verb === 'resize') await server.nbdelta('volume', 'resize', VOLUME, '--size', argument!)
  else throw new Error(`the guest asks for ${request}`)
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { suite: { type: 'string' }, phases: { type: 'string' }, filesystems: { type: 'string' } } })
  const report = new Report()
  const why = await cannotRunGuest(values.suite)
  if (why) report.skip('the kernel client in a guest', why)
  else await runGuest({
    phases: values.phases?.split(',') ?? PHASES, filesystems: values.filesystems?.split(',') ?? Object.keys(FS_PROGRAMS), suite: values.suite,
  }, report)
  report.end()
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
