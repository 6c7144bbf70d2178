/**
 * ChaosHost: a server with a store on a small disk of its own, that can be filled, stopped and killed, and is asked by the command line alone.
 *
 * Every answer is judged by what docs/cli.md promises of any command (outcome.ts). What is wrong is collected in `wrong`, never thrown, so
 * that the first thing that went wrong stays known. Needs root, for the mount.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, fdatasyncSync, mkdirSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync, statfsSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { InteropServer } from '../../scripts/interop/server.js'
import { until } from '../../scripts/interop/tools.js'
import type { CommandPool, Ended, Strike } from './command-pool.js'
import { judge, outcomeOf, type Outcome } from './outcome.js'
import { Relay } from './relay.js'

const MIB = 2 ** 20
const START_MS = 30_000
const HISTORY_MAX = 2000
const LEVEL_ERROR = 50
const INTERRUPTED = 130
const BUG = /by a bug/
const FULL = /ENOSPC|no room|no space/

/** Mounts of this process; none may outlive it. */
const mounted = new Set<string>()
process.on('exit', () => { for (const path of mounted) spawnSync('umount', ['--lazy', path]) })

export interface LogLine { readonly level: number, readonly time: string, readonly msg: string, readonly err?: { message: string } }

export class ChaosHost {
  readonly wrong: string[] = []
  readonly history: string[] = []
  /** Commands asked, by noun and verb and exit code. */
  readonly counts = new Map<string, number>()
  relay!: Relay
  secret = ''
  /** Begins and ends of outages so far: odd while it is down. A command that was asked before the last one may have gone unanswered. */
  outages = 0
  #frozen = false

  private constructor(readonly name: string, readonly server: InteropServer, readonly pool: CommandPool) {}

  static async start(name: string, diskMib: number, pool: CommandPool): Promise<ChaosHost> {
    const server = await InteropServer.start()
    const host = new ChaosHost(name, server, pool)
    await server.terminate()
    rmSync(server.store, { recursive: true })
    mkdirSync(server.store)
    const { status, stderr } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${diskMib}m`, 'tmpfs', server.store])
    if (status !== 0) throw new Error(`cannot mount: ${String(stderr)}`)
    mounted.add(server.store)
    await server.serve()
    const { secret, link } = await server.letPeersIn()
    host.secret = secret
    host.relay = await Relay.start(join(server.dir, 'relay.sock'), link)
    host.outages++
    await host.#answers()
    host.outages++
    return host
  }

  /** Of a volume of this host, for mirrors of another one. */
  target(volume: string): string { return `nbdelta+unix:///${volume}?socket=${this.relay.path}` }
  uri(volume: string): string { return this.server.uri(volume) }
  file(name: string): string { return join(this.server.dir, name) }

  /** One command with --json. What is wrong with any answer of it goes to `wrong`. */
  run(...words: readonly string[]): Promise<Outcome> { return this.runFor(undefined, words) }

  async runFor(strike: Strike | undefined, words: readonly string[]): Promise<Outcome> {
    const began = performance.now()
    const before = this.outages
    const ended = await this.pool.run(this.#whole(words), strike)
    return this.#judge(words, ended, performance.now() - began, before)
  }

  /** Two processes; the other host's reads what ours writes. Answers the outcome of that. */
  async pipe(words: readonly string[], other: ChaosHost, others: readonly string[], strikes: readonly (Strike | undefined)[] = []): Promise<Outcome> {
    const began = performance.now()
    const before = [this.outages, other.outages]
    const [ended, read] = await this.pool.pipe(this.#whole(words), other.#whole(others), strikes)
    const late = performance.now() - began
    const [first, second] = [this.#judge(words, ended, late, before[0]!), other.#judge(others, read, late, before[1]!)]
    if (first.exit !== 0 && second.exit === 0) this.wrong.push(`${this.name}: what failed was read to its end: ${words.join(' ')}: ${first.stderr}`)
    return second
  }

  #whole(words: readonly string[]): string[] { return [...words, '--json', '--store', this.server.store] }

  #judge(words: readonly string[], { exit, stdout, stderr, isStruck }: Ended, milliseconds: number, outages: number): Outcome {
    const outcome = outcomeOf(words, isStruck ? INTERRUPTED : exit, stdout, stderr, milliseconds)
    const key = `${words[0]} ${words[1]?.startsWith('-') ? '' : words[1] ?? ''} ${exit}`
    this.counts.set(key, (this.counts.get(key) ?? 0) + 1)
    this.note(`${words.join(' ')} -> ${outcome.exit}${outcome.fault ? ` ${outcome.fault.message}` : ''} (${Math.round(outcome.milliseconds)} ms)`)
    const bad = (isStruck ? '' : judge(outcome)) || (exit === 9 && outages === this.outages && outages % 2 === 0 && outcome.fault!.message.includes('server')
      ? `nobody answered, though nobody stopped it: ${words.join(' ')}: ${outcome.stderr}` : '')
    if (bad) this.wrong.push(`${this.name}: ${bad}`)
    return outcome
  }

  /** The answer of a command that must succeed. */
  async ask(...words: readonly string[]): Promise<unknown> {
    const { exit, value, stderr } = await this.run(...words)
    if (exit !== 0) throw new Error(`${this.name}: ${words.join(' ')}: ${stderr}`)
    return value
  }

  note(text: string): void {
    this.history.push(`${new Date().toISOString().slice(11, 23)} ${this.name} ${text}`)
    if (this.history.length > HISTORY_MAX) this.history.shift()
  }

  get isRunning(): boolean {
    try {
      process.kill(this.server.pid, 0)
      return true
    } catch {
      return false
    }
  }

  /** Nobody but us ends it. */
  judgeAlive(): void { if (!this.isRunning) this.wrong.push(`${this.name}: the server has ended by itself: ${this.server.log.slice(-3000)}`) }

  async kill(): Promise<void> {
    await this.down('kill')
    await this.up()
  }

  async restart(): Promise<void> {
    await this.down('stop')
    await this.up()
  }

  /** Until `up` nobody answers. */
  async down(how: 'kill' | 'stop'): Promise<void> {
    this.note(how === 'kill' ? 'kill -9' : 'SIGTERM')
    this.outages++
    this.thaw()
    if (how === 'kill') return this.server.kill()
    const { code } = await this.server.terminate()
    if (code !== 0) this.wrong.push(`${this.name}: SIGTERM ends it with ${code}: ${this.server.log.slice(-3000)}`)
  }

  /** NBD clients are let in a moment before commands are. */
  async up(): Promise<void> {
    await this.server.serve()
    await this.#answers()
    this.outages++
  }

  async #answers(): Promise<void> { await until('the server to answer', START_MS, async () => (await this.run('status')).exit === 0) }

  freeze(): void {
    this.note('SIGSTOP')
    this.#frozen = true
    process.kill(this.server.pid, 'SIGSTOP')
  }

  thaw(): void {
    if (!this.#frozen) return
    this.note('SIGCONT')
    this.#frozen = false
    process.kill(this.server.pid, 'SIGCONT')
  }

  /** Leaves so much of the disk free. */
  fill(leaveBytes: number): void {
    const { bavail, bsize } = statfsSync(this.server.store)
    const bytes = bavail * bsize - leaveBytes
    this.note(`fill the disk but for ${leaveBytes}`)
    const file = openSync(join(this.server.store, 'ballast'), 'a')
    const piece = Buffer.alloc(MIB)
    try {
      for (let left = bytes; left > 0; left -= MIB) writeSync(file, piece, 0, Math.min(left, MIB))
      fdatasyncSync(file)
    } catch { /* full */ } finally {
      closeSync(file)
    }
  }

  drain(): void {
    this.note('there is room again')
    rmSync(join(this.server.store, 'ballast'), { force: true })
  }

  usedBytes(): number {
    const { blocks, bfree, bsize } = statfsSync(this.server.store)
    return (blocks - bfree) * bsize
  }

  /** What each open descriptor is; of pipes their kind, of sockets whether they listen, and where. */
  descriptors(): string[] {
    const folder = `/proc/${this.server.pid}/fd`
    const sockets = this.#sockets()
    return readdirSync(folder).flatMap(name => {
      try {
        const link = readlinkSync(join(folder, name)).replace(/nbdelta-\w+\/pipe/, 'pipe')
        const inode = /^socket:\[(\d+)\]/.exec(link)?.[1]
        return [inode === undefined ? link.replace(/:\[\d+\]/, '') : sockets.get(inode) ?? 'socket']
      } catch { return [] }
    }).sort()
  }

  /** By inode: state and path of unix sockets, state and port of others. */
  #sockets(): Map<string, string> {
    const rows = (name: string): string[][] => readFileSync(`/proc/${this.server.pid}/net/${name}`, 'utf8').split('\n').slice(1).map(row => row.trim().split(/ +/))
    return new Map([
      ...rows('unix').map(row => [row[6]!, `unix socket ${row[5]} ${row[7] ?? ''}`] as const),
      ...rows('tcp').map(row => [row[9]!, `tcp socket ${row[3]} ${row[1]} ${row[2]}`] as const),
    ])
  }

  /** Files and folders of the store, but for sockets. */
  tree(): string[] {
    return readdirSync(this.server.store, { recursive: true, withFileTypes: true }).filter(entry => !entry.isSocket())
      .map(({ parentPath, name }) => join(parentPath, name).slice(this.server.store.length + 1)).sort()
  }

  /** What went wrong in its own eyes, without a full disk. */
  judgeLog(): void {
    const [line] = this.errors().filter(({ msg, err }) => !FULL.test(`${msg} ${err?.message}`) || BUG.test(msg))
    if (line) this.wrong.push(`${this.name}: the log says: ${line.msg}: ${line.err?.message}`)
  }

  residentBytes(): number { return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${this.server.pid}/status`, 'utf8'))![1]) * 1024 }

  errors(): LogLine[] {
    const lines = this.server.log.split('\n').filter(line => line.startsWith('{')).map(line => JSON.parse(line) as LogLine)
    return lines.filter(({ level }) => level >= LEVEL_ERROR)
  }

  /** Store, files and log as they are now, for whoever looks into a failure. */
  keep(folder: string): void {
    mkdirSync(folder, { recursive: true })
    spawnSync('cp', ['-a', '--sparse=always', this.server.dir, join(folder, this.name)])
  }

  async close(): Promise<void> {
    this.relay.close()
    this.thaw()
    await this.server.kill()
    spawnSync('umount', ['--lazy', this.server.store])
    mounted.delete(this.server.store)
    await this.server.close()
  }
}
