/**
 * A real nbdelta server for real clients: the launcher as an operator starts it, in a store of its own under the
 * system's temporary folder, on a unix socket and on a TCP port of 127.0.0.1 that stays the same over restarts.
 *
 * NBDELTA names another launcher to put to the test (an installed package, an older release).
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { $, ROOT, freePort, until } from './tools.js'

const LAUNCHER = process.env['NBDELTA'] ?? join(ROOT, 'bin', 'nbdelta.cjs')
/** Generous: two processors may be busy with everybody else's tests. */
const START_MS = 30_000
const STOP_MS = 60_000
/** A server that greets has opened its store: the first 8 bytes of every NBD session. */
const GREETING = 'NBDMAGIC'

export interface VolumeSpec {
  readonly name: string
  readonly size: string
  readonly grain?: string
}

export interface Ending {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Processes this program started and has not seen the end of; none may outlive it. */
const running = new Set<ChildProcess>()
process.on('exit', () => { for (const child of running) child.kill('SIGKILL') })

export class InteropServer {
  readonly dir: string
  readonly socketPath: string
  readonly port: number
  /** Further arguments of `serve`, from the next start on. */
  options: readonly string[] = []
  #child: ChildProcess | undefined
  #ending: Promise<Ending> | undefined

  private constructor(dir: string, port: number) {
    this.dir = dir
    this.socketPath = join(dir, 'nbd.sock')
    this.port = port
  }

  /** A fresh store with these volumes, served. */
  static async start(...volumes: readonly VolumeSpec[]): Promise<InteropServer> {
    const server = new InteropServer(await mkdtemp(join(tmpdir(), 'nbdelta-interop-')), await freePort())
    try {
      await server.serve()
      for (const { name, size, grain } of volumes) {
        await server.nbdelta('volume', 'create', name, '--size', size, ...(grain ? ['--grain', grain] : []))
      }
      return server
    } catch (error) {
      await server.close()
      throw error
    }
  }

  get store(): string { return join(this.dir, 'store') }
  get pid(): number { return this.#child?.pid ?? 0 }
  /** What it said so far, over all restarts. */
  get log(): string { return readFileSync(join(this.dir, 'server.log'), 'utf8') }

  uri(name: string): string { return `nbd+unix:///${name}?socket=${this.socketPath}` }
  tcpUri(name: string): string { return `nbd://127.0.0.1:${this.port}/${name}` }

  /** One command over this server's control socket; throws with its words if it fails. */
  async nbdelta(...args: readonly string[]): Promise<string> {
    return (await $`${process.execPath} ${LAUNCHER} ${args} --store ${this.store}`).stdout
  }

  /** Starts it anew, so that mirrors of other servers may come in. `secret`: a file; `link`: a socket. */
  async letPeersIn(): Promise<{ readonly secret: string, readonly link: string }> {
    const [secret, link] = [join(this.dir, 'secret'), join(this.dir, 'peer.sock')]
    writeFileSync(secret, 'a secret of sixteen bytes\n', { mode: 0o600 })
    this.options = ['--peer', `unix:${link}`, '--peer-secret', secret]
    await this.terminate()
    await this.serve()
    return { secret, link }
  }

  /** Starts the process without waiting until it answers. */
  spawn(): void {
    const log = openSync(join(this.dir, 'server.log'), 'a')
    const child = spawn(process.execPath, [LAUNCHER, 'serve', '--store', this.store, '--nbd', `unix:${this.socketPath}`,
      '--nbd', `tcp:127.0.0.1:${this.port}`, ...this.options], { stdio: ['ignore', log, log] })
    closeSync(log)
    running.add(child)
    this.#child = child
    this.#ending = new Promise(resolve => child.once('close', (code, signal) => {
      running.delete(child)
      resolve({ code, signal })
    }))
  }

  /** Starts it and waits until it greets. */
  async serve(): Promise<void> {
    this.spawn()
    const child = this.#child!
    await until('the server to greet', START_MS, async () => {
      if (child.exitCode !== null || child.signalCode !== null) {
        throw new Error(`the server ended at once (${child.exitCode ?? child.signalCode}): ${this.log.slice(-2000)}`)
      }
      return greets(this.socketPath)
    })
  }

  /** kill -9, and wait until it is really gone. */
  async kill(): Promise<void> {
    this.#child?.kill('SIGKILL')
    await this.#ending
  }

  /** SIGTERM: resolves when it has drained and ended. */
  async terminate(): Promise<Ending> {
    this.#child?.kill('SIGTERM')
    const late = setTimeout(() => this.#child?.kill('SIGKILL'), STOP_MS)
    const ending = await this.#ending!
    clearTimeout(late)
    return ending
  }

  /** Ends it and removes everything it had. */
  async close(): Promise<void> {
    if (this.#child && running.has(this.#child)) await this.kill()
    await rm(this.dir, { recursive: true, force: true })
  }
}

function greets(path: string): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect({ path })
    const done = (answer: boolean): void => { socket.destroy(); resolve(answer) }
    socket.setTimeout(1000, () => done(false))
    socket.once('data', data => done(data.toString('latin1').startsWith(GREETING)))
    socket.once('error', () => done(false))
    socket.once('close', () => done(false))
  })
}
