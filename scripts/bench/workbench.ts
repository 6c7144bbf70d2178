/**
 * What every measurement stands on: the working directory, the C helpers compiled, the data files in a known state.
 *
 * The hot file is written with 4 KiB writes and locked into the page cache. Newer kernels keep a file that was written or
 * read in one stroke in folios of up to 2 MiB, where one random 4 KiB write costs ten times the kernel time and would
 * hide every difference between servers; 4 KiB writes make 4 KiB folios, and mlock keeps them.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, rmSync, statSync, unlinkSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { $ } from '../zx.js'
import type { Place } from './sides.js'

const SOURCES = fileURLToPath(new URL('../../../scripts/bench/', import.meta.url))
const MIB = 1024 * 1024
const WARM_SOURCE_BYTES = 256 * MIB

export class Workbench {
  readonly directory: string
  readonly sizeBytes: number
  #pin: ChildProcess | undefined

  constructor(directory: string, sizeBytes: number) {
    this.directory = directory
    this.sizeBytes = sizeBytes
  }

  get nbdload(): string { return join(this.directory, 'nbdload') }
  get hotFile(): string { return join(this.directory, 'hot.img') }
  get coldFile(): string { return join(this.directory, 'cold.img') }
  get sourceFile(): string { return join(this.directory, 'source.img') }

  /** Compiles the helpers and empties what an earlier run left of stores and sockets; data files that fit are kept. */
  async prepare(): Promise<void> {
    mkdirSync(this.directory, { recursive: true })
    for (const name of ['nbdload', 'pin']) await $`gcc -O2 -o ${join(this.directory, name)} ${join(SOURCES, `${name}.c`)}`.quiet()
    rmSync(join(this.directory, 'sides'), { recursive: true, force: true })
  }

  /** Directories, sockets and ports of one side; a port that is free now. */
  async placeOf(name: string, file: string): Promise<Place> {
    const directory = join(this.directory, 'sides', name)
    mkdirSync(directory, { recursive: true })
    const socket = join(directory, 'sock')
    if (existsSync(socket)) unlinkSync(socket)
    return { directory, file, socket, port: await freePort() }
  }

  /** The file that is always wholly cached, in small folios. */
  async hot(): Promise<string> {
    if (this.#pin === undefined) {
      rmSync(this.hotFile, { force: true })
      await $`dd if=/dev/urandom of=${this.hotFile} bs=4k count=${this.sizeBytes / 4096} status=none`.quiet()
      this.#pin = spawn(join(this.directory, 'pin'), [this.hotFile], { stdio: ['pipe', 'pipe', 'inherit'] })
      const answer = await new Promise<string>(resolve => this.#pin!.stdout!.once('data', data => resolve(String(data).trim())))
      if (answer !== 'ready') console.log('the file cannot be locked into memory: some of it may be evicted while measuring')
    }
    this.#settle(this.hotFile)
    return this.hotFile
  }

  /** A smaller one for first overwrites, in small folios as well, all clean. */
  async burst(sizeBytes: number): Promise<string> {
    const path = join(this.directory, 'burst.img')
    if (!existsSync(path)) await $`dd if=/dev/urandom of=${path} bs=4k count=${sizeBytes / 4096} status=none`.quiet()
    this.#settle(path)
    return path
  }

  /** The file of which nothing is cached. */
  async cold(): Promise<string> {
    await this.#random(this.coldFile, 2 * this.sizeBytes)
    await $`dd of=${this.coldFile} oflag=nocache conv=notrunc,fdatasync count=0 status=none`.quiet()
    return this.coldFile
  }

  /** What copies in are copied from. */
  async source(): Promise<string> {
    await this.#random(this.sourceFile, this.sizeBytes)
    return this.sourceFile
  }

  /** A part of it: a server that has just started compiles its code meanwhile, without much to write back. */
  async warmSource(): Promise<string> {
    const path = join(this.directory, 'warm-source.img')
    await this.#random(path, Math.min(this.sizeBytes, WARM_SOURCE_BYTES))
    return path
  }

  close(): void {
    this.#pin?.stdin?.end()
    rmSync(join(this.directory, 'sides'), { recursive: true, force: true })
  }

  async #random(path: string, sizeBytes: number): Promise<void> {
    if (existsSync(path) && statSync(path).size === sizeBytes) return
    await $`dd if=/dev/urandom of=${path} bs=1M count=${sizeBytes / MIB} status=none`.quiet()
    this.#settle(path)
  }

  /** Write-back of one measurement must not burden the next. */
  #settle(path: string): void {
    const file = openSync(path, 'r+')
    fsyncSync(file)
    closeSync(file)
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject).listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })
}
