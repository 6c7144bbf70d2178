/**
 * A disk that a person can see into: an ext4 filesystem, where this machine can mount one (nbdfuse and a loop device, as root), else
 * raw blocks written and read with qemu-io. Either way there are pieces of 1 MiB, each with a name and a content.
 */
import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cannotTry } from '../interop/filesystems.js'
import { LoopDisk } from '../interop/loop-disk.js'
import type { InteropServer } from '../interop/server.js'
import { $ } from '../interop/tools.js'
import type { Stage } from './stage.js'

const MIB = 2 ** 20

export interface Disk {
  /** Whoever has it attached sees old content after a restore: it is detached before. */
  detach(): Promise<void>
  put(...names: readonly string[]): Promise<void>
  remove(name: string): Promise<void>
  /** Prints what is there, and answers the names. */
  list(): Promise<string[]>
  /** Nothing writes to it meanwhile, the kernel included. */
  still(work: () => Promise<void>): Promise<void>
}

export interface DiskKind {
  readonly words: string
  /** @param blank makes a filesystem first */
  attach(server: InteropServer, name: string, blank?: boolean): Promise<Disk>
}

export async function diskKind(stage: Stage): Promise<DiskKind> {
  const why = await cannotTry('ext4')
  if (why) return { words: `raw blocks, by qemu-io: ${why}`, attach: async (server, name) => new Blocks(stage, server.uri(name)) }
  return { words: 'an ext4 filesystem, by nbdfuse and a loop device', attach: (server, name, blank) => Files.attach(stage, server, name, blank) }
}

class Files implements Disk {
  readonly #stage: Stage
  readonly #disk: LoopDisk

  private constructor(stage: Stage, disk: LoopDisk) {
    this.#stage = stage
    this.#disk = disk
  }

  static async attach(stage: Stage, server: InteropServer, name: string, blank = false): Promise<Files> {
    const folder = join(server.dir, `at-${name}`)
    await mkdir(folder, { recursive: true })
    const disk = await LoopDisk.attach(server.uri(name), folder)
    stage.note(`nbdfuse ${folder}/fuse/disk '${server.uri(name)}' & losetup --show -f ${folder}/fuse/disk    # ${disk.device}`)
    const files = new Files(stage, disk)
    stage.holds(files.detach)
    if (blank) await stage.run('mkfs.ext4', '-F', '-q', disk.device)
    await disk.mount()
    stage.note(`mount ${disk.device} ${disk.mountPoint}`)
    return files
  }

  readonly detach = async (): Promise<void> => {
    this.#stage.withdraws(this.detach)
    this.#stage.note(`umount ${this.#disk.mountPoint}; losetup -d ${this.#disk.device}    # and nbdfuse ends`)
    await this.#disk.detach()
  }

  async still(work: () => Promise<void>): Promise<void> {
    this.#stage.note(`umount ${this.#disk.mountPoint}`)
    await this.#disk.unmount()
    await work()
    this.#stage.note(`mount ${this.#disk.device} ${this.#disk.mountPoint}`)
    await this.#disk.mount()
  }

  async put(...names: readonly string[]): Promise<void> {
    const paths = names.map(name => join(this.#disk.mountPoint, name))
    this.#stage.note(`for f in ${names.join(' ')}; do head -c 1M /dev/urandom > ${this.#disk.mountPoint}/$f; done; sync`)
    for (const path of paths) await writeFile(path, randomBytes(MIB))
    await $`sync -f ${this.#disk.mountPoint}`
  }

  async remove(name: string): Promise<void> {
    await this.#stage.run('rm', join(this.#disk.mountPoint, name))
    await $`sync -f ${this.#disk.mountPoint}`
  }

  async list(): Promise<string[]> {
    const words = await this.#stage.run('ls', '-x', '-w', '120', '-I', 'lost+found', this.#disk.mountPoint)
    return words.split(/\s+/).filter(name => name !== '')
  }
}

/** Names are given to positions as they come; a position that reads as zeros has nothing. */
class Blocks implements Disk {
  static readonly #places = new Map<string, number>()
  readonly #stage: Stage
  readonly #uri: string

  constructor(stage: Stage, uri: string) {
    this.#stage = stage
    this.#uri = uri
  }

  async detach(): Promise<void> { /* qemu-io attaches for each command */ }

  async still(work: () => Promise<void>): Promise<void> { await work() }

  async put(...names: readonly string[]): Promise<void> {
    for (const name of names) await this.#io(`write -P ${1 + randomBytes(1)[0]! % 254} ${placeOf(Blocks.#places, name)}M 1M`, name)
  }

  async remove(name: string): Promise<void> { await this.#io(`discard ${placeOf(Blocks.#places, name)}M 1M`, name) }

  async list(): Promise<string[]> {
    const found: string[] = []
    for (const [name, place] of Blocks.#places) {
      const { stdout } = await $`qemu-io -f raw -c ${`read -v ${place}M 16`} ${this.#uri}`
      if (!/(00 ){16}/.test(stdout)) found.push(name)
    }
    this.#stage.note(`# pieces that hold anything: ${found.join(' ')}`)
    return found
  }

  async #io(command: string, name: string): Promise<void> {
    this.#stage.note(`qemu-io -f raw -c '${command}' -c flush '${this.#uri}'    # ${name}`)
    await $`qemu-io -f raw -c ${command} -c flush ${this.#uri}`
  }
}

function placeOf(places: Map<string, number>, name: string): number {
  const place = places.get(name) ?? places.size
  places.set(name, place)
  return place
}

/** Rejects unless exactly these are there. */
export async function expect(disk: Disk, ...wanted: readonly string[]): Promise<void> {
  const found = await disk.list()
  if ([...found].sort().join() !== [...wanted].sort().join()) throw new Error(`there are ${found.join(' ')}, not ${wanted.join(' ')}`)
}
