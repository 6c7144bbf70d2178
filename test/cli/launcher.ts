/** The real launcher as a child process: a server on sockets of its own, and commands that ask it. Needs dist built. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ChildProcess } from 'node:child_process'
import type { Test } from 'tap'
import { NbdPeer } from './nbd-peer.js'

const LAUNCHER = fileURLToPath(new URL('../../../bin/nbdelta.cjs', import.meta.url))
const READY_MS = 15_000
/** Nothing of the caller's environment may decide: no NBDELTA_STORE, no colours. */
const ENV = { PATH: process.env.PATH, HOME: tmpdir() }

export interface Outcome { readonly code: number | null, readonly stdout: string, readonly stderr: string }

export function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-cli-'))
  t.teardown(() => { rmSync(folder, { recursive: true, force: true }) })
  return folder
}

/** Runs one command to its end, `through` another program if given. */
export function nbdelta(args: readonly string[],
  options: { env?: Record<string, string>, cwd?: string, through?: readonly string[] } = {}): Promise<Outcome> {
  const [program, ...words] = [...options.through ?? [], process.execPath, LAUNCHER, ...args]
  return outcome(spawn(program!, words, { env: { ...ENV, ...options.env }, cwd: options.cwd, stdio: ['ignore', 'pipe', 'pipe'] }))
}

/** A refusal as an operator should see it. */
export function clean(t: Test, outcome: Outcome, code: number, message: RegExp, text: string): void {
  t.match(outcome, { code, stdout: '', stderr: message }, text)
  t.match(outcome.stderr, /^nbdelta: [^\n]+\n(hint: [^\n]+\n)?$/, `${text}: one line and a hint`)
  t.notMatch(outcome.stderr, /\.js:\d+|node:internal/, `${text}: no stack trace`)
}

/** Starts one command and leaves it running; for signals. */
export function start(args: readonly string[]): { child: ChildProcess, ended: Promise<Outcome> } {
  const child = spawn(process.execPath, [LAUNCHER, ...args], { env: ENV, stdio: ['ignore', 'pipe', 'pipe'] })
  return { child, ended: outcome(child) }
}

function outcome(child: ChildProcess): Promise<Outcome> {
  const text = { stdout: '', stderr: '' }
  child.stdout!.setEncoding('utf8').on('data', (chunk: string) => { text.stdout += chunk })
  child.stderr!.setEncoding('utf8').on('data', (chunk: string) => { text.stderr += chunk })
  return new Promise(resolve => { child.on('close', code => { resolve({ code, ...text }) }) })
}

export interface Served {
  readonly store: string
  readonly child: ChildProcess
  /** What it printed until it was ready. */
  readonly banner: string
  readonly ended: Promise<Outcome>
  /** Asks it. */
  ask(...args: string[]): Promise<Outcome>
  /** Asks it with --json; the parsed answer. */
  json(...args: string[]): Promise<unknown>
}

/** Starts a server and waits until it says that it is ready. It is killed at the test's end. */
export async function serve(t: Test, store: string, extra: readonly string[] = []): Promise<Served> {
  const { child, ended } = start(['serve', '--store', store, ...extra])
  t.teardown(async () => { child.kill('SIGKILL'); await ended })
  let banner = ''
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => { reject(new Error(`the server is not ready: ${banner}`)) }, READY_MS)
    child.stdout!.on('data', (chunk: string) => {
      banner += chunk
      if (/drains and stops/.test(banner) || /"ready":true/.test(banner)) { clearTimeout(timer); resolve() }
    })
    void ended.then(({ code, stderr }) => { clearTimeout(timer); reject(new Error(`the server ended with ${code}: ${stderr}`)) })
  })
  const ask = (...args: string[]): Promise<Outcome> => nbdelta([...args, '--store', store])
  return {
    store, child, banner, ended, ask,
    json: async (...args) => {
      const { code, stdout, stderr } = await ask(...args, '--json')
      if (code !== 0) throw new Error(`${args.join(' ')}: exit ${code}: ${stderr}`)
      return JSON.parse(stdout) as unknown
    },
  }
}

/** Whether a program is on this machine. */
export function has(program: string): boolean {
  return spawnSync('sh', ['-c', `command -v ${program}`]).status === 0
}

/** Writes through a connection of its own. */
export async function put(store: string, volume: string, offset: number, fill: number, length = 4096): Promise<void> {
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), volume)
  await peer.write(offset, Buffer.alloc(length, fill))
  await peer.flush()
  peer.detach()
  // The server sees the end of the connection a little later.
  await new Promise(resolve => { setTimeout(resolve, 100) })
}

/** What a client reads there. */
export async function byteAt(store: string, volume: string, offset: number): Promise<number> {
  const peer = await NbdPeer.attach(join(store, 'nbd.sock'), volume)
  const bytes = await peer.read(offset, 512)
  peer.detach()
  await new Promise(resolve => { setTimeout(resolve, 100) })
  return bytes[0]!
}
