/**
 * HolePunch: gives space back, or allocates zeros, through util-linux `fallocate`, because Node has no such call.
 *
 * One child shell at a time and disk. It inherits the open descriptor as number 3 and works through /proc/self/fd/3, so a
 * renamed file is still the right one. Ranges are handed over one by one, each after the answer to the one before: if
 * this process is killed the child reads the end of its input and stops, instead of punching holes into what the next
 * owner of the file has written meanwhile. One range is ~1 ms. A child out of work stays for LINGER_MS, because
 * starting one holds up the event loop for some ms.
 *
 * Ranges are cut to PIECE_BYTES, because the file system holds the inode's lock while it frees one.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock, Timer } from './clock.js'

/** 256 MiB of cached pages take some 15 ms to drop; writes of the same file wait that long. */
export const PIECE_BYTES = 256 * 2 ** 20
const LINGER_MS = 2000
const DEFAULT_PATH = '/usr/sbin:/usr/bin:/sbin:/bin'
/** $1 = the tool; then a line per range: how, offset, length. It answers each with a dot, or ends. */
const SCRIPT = 'while read -r how offset length; do "$1" "$how" -o "$offset" -l "$length" /proc/self/fd/3 || exit 1; echo .; done'

/** Complaints that will not go away: wrong tool, no /proc, or a file system that cannot. */
const NEVER = /not supported|not found|usage|unrecognized|invalid option|No such file|ENOENT|EACCES/i

/** `punch`: zeros, space given back. `allocate`: zeros, space kept. */
export type HoleMode = 'punch' | 'allocate'
const FLAG: Readonly<Record<HoleMode, string>> = { punch: '--punch-hole', allocate: '--zero-range' }

export interface ByteRange { readonly offset: number, readonly length: number }

interface Job extends ByteRange {
  readonly mode: HoleMode
  readonly resolve: (done: boolean) => void
  done: number
  /** A child died over it without a word. */
  tried: boolean
}

/** The tool's path, or undefined: looked up along PATH, nothing is run. */
export async function findFallocate(path = process.env.PATH || DEFAULT_PATH): Promise<string | undefined> {
  for (const folder of path.split(':')) {
    const tool = join(folder, 'fallocate')
    if (await access(tool, constants.X_OK).then(() => true, () => false)) return tool
  }
  return undefined
}

function startShell(tool: string, fd: number): ChildProcess | undefined {
  try {
    // Detached: Ctrl-C goes to the server alone, which lets the child finish its range.
    return spawn('/bin/sh', ['-c', SCRIPT, 'sh', tool], {
      stdio: ['pipe', 'pipe', 'pipe', fd], detached: true, env: { PATH: process.env.PATH || DEFAULT_PATH, LC_ALL: 'C' },
    })
  } catch {
    return undefined
  }
}

export class HolePunch {
  readonly #fd: number
  readonly #tool: string | undefined
  readonly #clock: Clock
  readonly #refused = new Set<HoleMode>()
  readonly #queue: Job[] = []
  #child: ChildProcess | undefined
  /** The child owes an answer for the head of the queue. */
  #asked = false
  /** The child has been told to go; what is queued meanwhile is for the next one. */
  #dismissed = false
  #linger: Timer | undefined
  #closing = false
  #goneWaiters: (() => void)[] = []

  constructor(fd: number, tool: string | undefined, clock: Clock) {
    this.#fd = fd
    this.#tool = tool
    this.#clock = clock
  }

  /** False once tool or file system are known not to do it. */
  can(mode: HoleMode): boolean { return this.#tool !== undefined && !this.#refused.has(mode) }
  /** A range is being freed, so the file may be locked for some ms. */
  get busy(): boolean { return this.#asked }

  /** Resolves true when the range reads as zeros, false when it could not be done; part of it may be zeros then. */
  run(mode: HoleMode, offset: number, length: number): Promise<boolean> {
    if (!this.can(mode)) return Promise.resolve(false)
    return new Promise(resolve => {
      this.#queue.push({ mode, offset, length, resolve, done: 0, tried: false })
      if (!this.#child) this.#spawn()
      else if (!this.#asked && !this.#dismissed) this.#send()
    })
  }

  /** Finishes what is queued and lets the child go. */
  close(): Promise<void> {
    if (!this.#child) return Promise.resolve()
    this.#closing = true
    if (!this.#asked) this.#dismiss()
    return new Promise(resolve => { this.#goneWaiters.push(resolve) })
  }

  #spawn(): void {
    let complaint = ''
    const child = startShell(this.#tool!, this.#fd)
    child?.on('error', error => { complaint = error.message })
    // Without descriptors to spare there may be a child object without pipes, and no `close` will ever come.
    if (!child?.stdin) return this.#giveUp()
    this.#child = child
    this.#dismissed = false
    child.stdin.on('error', () => undefined)
    child.stdout!.on('data', (dots: Buffer) => { for (let i = 0; i < dots.length; i++) if (dots[i] === 0x2e) this.#pieceDone() })
    child.stderr!.on('data', (text: Buffer) => { complaint = (complaint + text.toString('latin1')).slice(0, 500) })
    child.on('close', () => this.#ended(complaint))
    this.#send()
  }

  #piece(job: Job): number { return Math.min(job.length - job.done, PIECE_BYTES) }

  #send(): void {
    const job = this.#queue[0]
    this.#asked = job !== undefined
    this.#linger?.cancel()
    if (job) this.#child!.stdin!.write(`${FLAG[job.mode]} ${job.offset + job.done} ${this.#piece(job)}\n`)
    else if (this.#closing) this.#dismiss()
    else this.#linger = this.#clock.setTimeout(() => this.#dismiss(), LINGER_MS)
  }

  #dismiss(): void {
    this.#linger?.cancel()
    this.#dismissed = true
    this.#child?.stdin?.end()
  }

  #pieceDone(): void {
    const job = this.#queue[0]
    job.done += this.#piece(job)
    if (job.done === job.length) {
      this.#queue.shift()
      job.resolve(true)
    }
    this.#send()
  }

  /** The child is gone: in peace, or because it could not do the piece it was asked for. */
  #ended(complaint: string): void {
    this.#child = undefined
    this.#linger?.cancel()
    const job = this.#asked ? this.#queue[0] : undefined
    this.#asked = false
    if (job && !complaint && !job.tried) {
      job.tried = true
    } else if (job) {
      if (NEVER.test(complaint)) this.#refused.add(job.mode)
      this.#queue.shift()!.resolve(false)
    }
    for (let i = 0; i < this.#queue.length;) {
      if (this.can(this.#queue[i].mode)) i++
      else this.#queue.splice(i, 1)[0].resolve(false)
    }
    if (this.#queue.length > 0) return this.#spawn()
    for (const wake of this.#goneWaiters.splice(0)) wake()
  }

  #giveUp(): void {
    for (const job of this.#queue.splice(0)) job.resolve(false)
    for (const wake of this.#goneWaiters.splice(0)) wake()
  }
}
