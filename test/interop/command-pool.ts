/**
 * CommandPool: runs `nbdelta` commands, mostly in threads that stay (command-worker.ts), some as processes of their own.
 *
 * A process takes most of its time to start, and hundreds of them take it from the servers that are to be tested.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { ROOT } from '../../scripts/interop/tools.js'

const LAUNCHER = process.env['NBDELTA'] ?? join(ROOT, 'bin', 'nbdelta.cjs')
/** A command that has not ended by then hangs. */
const COMMAND_MS = 90_000
const PROCESSES = 0.03

/** After so long a command gets a Ctrl-C, or is killed. */
export interface Strike { readonly afterMs: number, readonly signal: 'SIGINT' | 'SIGKILL' }

/** Exit null: it did not end. `isStruck`: a kill, or a Ctrl-C before or behind the time in which it listens to one. */
export interface Ended { readonly exit: number | null, readonly stdout: string, readonly stderr: string, readonly isStruck?: boolean }

export class CommandPool {
  readonly #idle: Worker[] = []

  constructor(readonly random: () => number) {}

  run(words: readonly string[], strike?: Strike): Promise<Ended> {
    const isProcess = process.env['NBDELTA'] !== undefined || strike !== undefined || this.random() < PROCESSES
    return isProcess ? inProcess(words, strike) : this.#inThread(words)
  }

  /** Two processes, the second of which reads what the first writes; that is not collected. */
  pipe(first: readonly string[], second: readonly string[], strikes: readonly (Strike | undefined)[] = []): Promise<[Ended, Ended]> {
    const writer = spawn(process.execPath, [LAUNCHER, ...first], { stdio: ['ignore', 'pipe', 'pipe'] })
    const reader = spawn(process.execPath, [LAUNCHER, ...second], { stdio: [writer.stdout, 'pipe', 'pipe'] })
    writer.stdout.destroy()
    return Promise.all([ended(writer, strikes[0]), ended(reader, strikes[1])])
  }

  async close(): Promise<void> { await Promise.all(this.#idle.map(worker => worker.terminate())) }

  async #inThread(words: readonly string[]): Promise<Ended> {
    const worker = this.#idle.pop() ?? new Worker(new URL('./command-worker.js', import.meta.url))
    worker.unref()
    const ended = await new Promise<Ended>((resolve, reject) => {
      const late = setTimeout(() => { resolve({ exit: null, stdout: '', stderr: '' }) }, COMMAND_MS)
      worker.once('error', reject)
      worker.once('message', (message: Ended) => {
        clearTimeout(late)
        worker.off('error', reject)
        resolve(message)
      })
      worker.postMessage([...words])
    })
    if (ended.exit === null) await worker.terminate()
    else this.#idle.push(worker)
    return ended
  }
}

function inProcess(words: readonly string[], strike: Strike | undefined): Promise<Ended> {
  return ended(spawn(process.execPath, [LAUNCHER, ...words], { stdio: ['ignore', 'pipe', 'pipe'] }), strike)
}

async function ended(child: ChildProcess, strike: Strike | undefined): Promise<Ended> {
  const [out, err]: Buffer[][] = [[], []]
  child.stdout!.on('data', (chunk: Buffer) => out!.push(chunk))
  child.stderr!.on('data', (chunk: Buffer) => err!.push(chunk))
  const timers = [setTimeout(() => { child.kill('SIGKILL') }, COMMAND_MS)]
  if (strike) timers.push(setTimeout(() => { child.kill(strike.signal) }, strike.afterMs))
  const [exit, signal] = await new Promise<[number | null, NodeJS.Signals | null]>(resolve => { child.once('close', (...how) => { resolve(how) }) })
  for (const timer of timers) clearTimeout(timer)
  return { exit, isStruck: strike !== undefined && signal === strike.signal, stdout: Buffer.concat(out!).toString(), stderr: Buffer.concat(err!).toString() }
}
