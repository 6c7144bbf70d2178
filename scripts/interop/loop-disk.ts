/**
 * An export as a block device without the kernel's NBD client: nbdfuse makes it a file, losetup makes that a disk.
 * Needs root, /dev/fuse and loop devices. The server must not be restarted while it is attached: nbdfuse does not
 * reconnect, and a mount above it would hang.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { $, lacking, until, which } from './tools.js'

const ATTACH_MS = 20_000
const DETACH_MS = 20_000

/** `false`, or why this machine cannot attach a loop disk. */
export async function withoutLoopDisks(): Promise<string | false> {
  const absent = lacking('nbdfuse', 'fusermount3', 'losetup', 'mount', 'blkdiscard')
  if (absent) return absent
  if (process.getuid?.() !== 0) return 'needs root to mount'
  if (!existsSync('/dev/fuse')) return 'no /dev/fuse here'
  const loop = await $({ nothrow: true })`losetup -f`
  return loop.exitCode !== 0 && `no loop device to be had: ${loop.stderr.trim()}`
}

/** Whatever is attached when the program is told to stop is detached first: a forgotten mount outlives everybody. */
const attached = new Set<LoopDisk>()
let armed = false
function detachOnSignals(): void {
  armed = true
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, async () => {
    for (const disk of attached) await disk.detach()
    process.exit(130)
  })
}

export class LoopDisk {
  readonly device: string
  readonly mountPoint: string
  readonly #fuseDir: string
  readonly #fuse: ChildProcess

  private constructor(device: string, mountPoint: string, fuseDir: string, fuse: ChildProcess) {
    this.device = device
    this.mountPoint = mountPoint
    this.#fuseDir = fuseDir
    this.#fuse = fuse
  }

  /** @param dir a folder of the caller's for the FUSE file and the mount point */
  static async attach(uri: string, dir: string, { readOnly = false } = {}): Promise<LoopDisk> {
    const fuseDir = join(dir, 'fuse')
    const mountPoint = join(dir, 'mnt')
    await mkdir(fuseDir, { recursive: true })
    await mkdir(mountPoint, { recursive: true })
    const fuse = spawn(which('nbdfuse')!, [...readOnly ? ['-r'] : [], join(fuseDir, 'disk'), uri], { stdio: ['ignore', 'ignore', 'pipe'] })
    let words = ''
    fuse.stderr.on('data', piece => { words += piece })
    try {
      await until('nbdfuse', ATTACH_MS, () => {
        if (fuse.exitCode !== null) throw new Error(`nbdfuse: ${words}`)
        return existsSync(join(fuseDir, 'disk'))
      })
      const device = (await $`losetup --show --direct-io=on ${readOnly ? ['-r'] : []} -f ${join(fuseDir, 'disk')}`).stdout.trim()
      const disk = new LoopDisk(device, mountPoint, fuseDir, fuse)
      if (!armed) detachOnSignals()
      attached.add(disk)
      return disk
    } catch (error) {
      await $({ nothrow: true })`fusermount3 -u ${fuseDir}`
      fuse.kill()
      throw error
    }
  }

  async mount(...options: readonly string[]): Promise<void> { await $`mount ${options} ${this.device} ${this.mountPoint}` }
  async unmount(): Promise<void> { await $`umount ${this.mountPoint}` }

  /** Unmounts if need be and takes everything down again. Never throws. */
  async detach(): Promise<void> {
    attached.delete(this)
    const quiet = $({ nothrow: true })
    if ((await quiet`mountpoint -q ${this.mountPoint}`).exitCode === 0) {
      // Unmounted while it is frozen, a filesystem can never be thawed again, and keeps its device until the machine restarts.
      await quiet`fsfreeze -u ${this.mountPoint}`
      await quiet`umount ${this.mountPoint} || umount -l ${this.mountPoint}`
    }
    await quiet`losetup -d ${this.device}`
    await until('nbdfuse to end', DETACH_MS, async () => {
      await quiet`fusermount3 -u ${this.#fuseDir}`
      return this.#fuse.exitCode !== null || this.#fuse.signalCode !== null
    }).catch(() => this.#fuse.kill('SIGKILL'))
  }
}
