/**
 * One run of one server: started fresh, found again with all its children by a tag in their environment (nbd-server
 * daemonises and forks a process a connection), its CPU time and peak memory read from /proc, and stopped.
 */
import { spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync, readdirSync } from 'node:fs'
import { connect } from 'node:net'
import type { NetConnectOpts } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const START_MS = 60_000
const STOP_MS = 8000
const POLL_MS = 10
/** sysconf(_SC_CLK_TCK): 100 on every Linux that Debian ships. */
const TICKS_PER_SECOND = 100
const GREETING = 'NBDMAGIC'
let started = 0

export interface Started { readonly server: ServerProcess, readonly startMs: number }

export class ServerProcess {
  readonly #tag: string
  readonly #log: string
  #exit: number | string | undefined

  private constructor(name: string, directory: string) {
    this.#tag = `NBDELTA_BENCH=${process.pid}-${name}-${started++}`
    this.#log = join(directory, 'server.log')
  }

  /** Starts `command` in `directory` and waits until `at` greets; `startMs` says how long that took. */
  static async start(name: string, command: readonly string[], directory: string, at: NetConnectOpts): Promise<Started> {
    const server = new ServerProcess(name, directory)
    const [variable, value] = server.#tag.split('=') as [string, string]
    const log = openSync(server.#log, 'w')
    const begin = performance.now()
    const child = spawn(command[0]!, command.slice(1),
      { cwd: directory, stdio: ['ignore', log, log], env: { ...process.env, [variable]: value } })
    closeSync(log)
    child.on('error', error => { server.#exit = error.message })
    child.on('exit', (code, signal) => { if (code !== 0) server.#exit = code ?? signal ?? 'ended' })
    while (!await greets(at)) {
      if (server.#exit !== undefined || performance.now() - begin > START_MS) {
        await server.stop()
        const why = server.#exit ?? 'no greeting'
        throw new Error(`${name} did not start (${why}): ${readFileSync(server.#log, 'utf8').slice(-800)}`)
      }
      await sleep(POLL_MS)
    }
    return { server, startMs: performance.now() - begin }
  }

  pids(): number[] {
    const ours = (pid: string): boolean => readOr(`/proc/${pid}/environ`).split('\0').includes(this.#tag)
    return readdirSync('/proc').filter(name => /^\d+$/.test(name) && ours(name)).map(Number)
  }

  /** CPU seconds of all its processes and of their children that have ended; steps of 10 ms. */
  cpuSeconds(): number {
    return this.pids().map(pid => readOr(`/proc/${pid}/stat`).split(') ').pop()!.split(' ').slice(11, 15))
      .reduce((sum, fields) => sum + fields.reduce((all, field) => all + Number(field), 0), 0) / TICKS_PER_SECOND
  }

  /** CPU seconds of all living threads, to the nanosecond. */
  fineCpuSeconds(): number {
    let nanoseconds = 0
    for (const pid of this.pids()) {
      for (const thread of readdirSync(`/proc/${pid}/task`)) {
        nanoseconds += Number(readOr(`/proc/${pid}/task/${thread}/schedstat`).split(' ')[0])
      }
    }
    return nanoseconds / 1e9
  }

  /** Peak resident bytes, summed over its processes. */
  peakBytes(): number {
    const peakKib = (pid: number): number => Number(/VmHWM:\s*(\d+)/.exec(readOr(`/proc/${pid}/status`))?.[1] ?? 0)
    return this.pids().reduce((sum, pid) => sum + peakKib(pid) * 1024, 0)
  }

  /** SIGTERM, then SIGKILL; returns when no process of it is left. */
  async stop(): Promise<void> {
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      for (const pid of this.pids()) try { process.kill(pid, signal) } catch { /* ended meanwhile */ }
      const until = performance.now() + STOP_MS
      while (performance.now() < until) {
        if (this.pids().length === 0) return
        await sleep(POLL_MS)
      }
    }
  }
}

/** The highest CPU reading while `work` runs: a server that forks a process a connection loses it at the disconnect. */
export async function withCpuPeak<T>(server: ServerProcess, work: Promise<T>): Promise<{ result: T, cpuSeconds: number }> {
  let peak = 0
  const sample = (): void => { peak = Math.max(peak, server.cpuSeconds()) }
  const timer = setInterval(sample, 100)
  try {
    const result = await work
    sample()
    return { result, cpuSeconds: peak }
  } finally { clearInterval(timer) }
}

function readOr(path: string): string {
  try { return readFileSync(path, 'latin1') } catch { return '' }
}

function greets(at: NetConnectOpts): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(at)
    const done = (answer: boolean): void => { socket.destroy(); resolve(answer) }
    socket.setTimeout(1000, () => done(false))
    socket.once('data', data => done(data.toString('latin1').startsWith(GREETING)))
    socket.once('error', () => done(false))
    socket.once('close', () => done(false))
  })
}
