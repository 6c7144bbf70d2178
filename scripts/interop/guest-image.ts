/**
 * The guest's initramfs: busybox, a few modules with what they depend on, a few of this machine's programs with their
 * libraries, our /init. Built anew for every run (two seconds), so that it cannot be stale.
 */
import { existsSync } from 'node:fs'
import { chmod, copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { GuestKernel } from './guest-kernel.js'
import { $, ROOT, which } from './tools.js'

const FOLDERS = ['bin', 'sbin', 'dev', 'proc', 'sys', 'run', 'tmp', 'mnt', 'etc', 'root', 'usr/bin', 'usr/sbin']
const UNPACK: Readonly<Record<string, string>> = { xz: 'xz -dc', zst: 'zstd -qdc', gz: 'gzip -dc', ko: 'cat' }

export interface GuestImage {
  readonly kernel: GuestKernel
  readonly modules: readonly string[]
  /** Names or paths of programs of this machine. */
  readonly programs: readonly string[]
  /** Shell variables for /init. */
  readonly settings: Readonly<Record<string, string | number>>
}

/** Builds the tree in `dir` and answers the path of the packed initramfs. */
export async function packGuest(dir: string, { kernel, modules, programs, settings }: GuestImage): Promise<string> {
  const root = join(dir, 'root')
  for (const folder of FOLDERS) await mkdir(join(root, folder), { recursive: true })
  for (const name of modules) await addModule(root, kernel, name)
  const own = join('lib/modules', kernel.release)
  for (const file of ['modules.order', 'modules.builtin', 'modules.builtin.modinfo']) {
    if (existsSync(join(kernel.tree, own, file))) await copyFile(join(kernel.tree, own, file), join(root, own, file))
  }
  await $`depmod -b ${root} ${kernel.release}`
  for (const program of ['busybox', ...programs]) await addProgram(root, program)
  await writeFile(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n')
  await writeFile(join(root, 'etc/hosts'), '127.0.0.1 localhost\n')
  if (existsSync('/etc/mke2fs.conf')) await copyFile('/etc/mke2fs.conf', join(root, 'etc/mke2fs.conf'))
  await writeFile(join(root, 'guest.conf'), Object.entries(settings).map(([name, value]) => `${name}='${value}'\n`).join(''))
  await writeFile(join(root, 'init'), await readFile(join(ROOT, 'scripts/interop/guest-init.sh')))
  await chmod(join(root, 'init'), 0o755)
  const packed = join(dir, 'initramfs')
  await $({ cwd: root })`find . | cpio -o -H newc --quiet | gzip -1 > ${packed}`
  return packed
}

async function addModule(root: string, kernel: GuestKernel, name: string): Promise<void> {
  const { stdout } = await $`modprobe -C /dev/null -d ${kernel.tree} -S ${kernel.release} --show-depends ${name}`
  for (const [, path] of stdout.matchAll(/^insmod (\S+)/gm)) {
    const target = join(root, 'lib/modules', path!.slice(path!.indexOf(`/${kernel.release}/`)).replace(/\.(xz|zst|gz)$/, ''))
    await mkdir(dirname(target), { recursive: true })
    await $`${UNPACK[path!.split('.').pop()!]!.split(' ')} ${path!} > ${target}`
  }
}

async function addProgram(root: string, program: string): Promise<void> {
  const path = which(program)
  if (!path) throw new Error(`no program ${program} here`)
  const target = join(root, 'bin', basename(program))
  await copyFile(path, target)
  await chmod(target, 0o755)
  const { stdout } = await $({ nothrow: true })`ldd ${path}`
  for (const [library] of stdout.matchAll(/\/\S+/g)) {
    if (library === path || existsSync(join(root, library))) continue
    await mkdir(join(root, dirname(library)), { recursive: true })
    await copyFile(library, join(root, library))
  }
}
