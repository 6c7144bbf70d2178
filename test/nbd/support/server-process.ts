/**
 * A server in a process of its own, so that its memory is its own. Child side when run directly:
 *
 *   export `void`: 64 GiB; reads give a byte pattern, all of it "data"; writes are dropped after `delayMs`, as a slow disk takes
 * them.
 *   message 'usage' -> { rss, peak } bytes; 'stop' -> drains and exits 0.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { MemoryDisk } from '../../../src/device/memory-disk.js'
import { createServer } from '../../../src/nbd/server.js'
import { alteredDisk } from './altered-disk.js'
import { GIB } from './wire.js'

export const VOID_BYTES = 64 * GIB

export interface Usage { readonly rss: number, readonly peak: number }

export interface ServerProcess {
  readonly address: { path: string }
  usage(): Promise<Usage>
  /** Exit code after a clean stop. */
  stop(): Promise<number>
}

const own = fileURLToPath(import.meta.url)

export async function startServerProcess(t: { teardown(callback: () => unknown): unknown },
  delayMs: number): Promise<ServerProcess> {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-process-'))
  const path = join(folder, 'socket')
  // Without the test runner's own loaders, which take more memory than the server.
  const child: ChildProcess = fork(own, [path, String(delayMs)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], execArgv: [] })
  const exited = new Promise<number>(resolve => { child.once('exit', (code, signal) => resolve(code ?? (signal ? 128 : 1))) })
  const next = (): Promise<unknown> => new Promise((resolve, reject) => {
    child.once('message', resolve)
    void exited.then(code => reject(new Error(`the server process ended with ${code}`)))
  })
  t.teardown(() => {
    child.kill('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  })
  await next()
  return {
    address: { path },
    async usage() {
      const answer = next()
      child.send('usage')
      return await answer as Usage
    },
    stop() {
      child.send('stop')
      return exited
    },
  }
}

/** The high-water mark of resident memory, bytes. */
function peakBytes(): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024
}

async function serve(path: string, delayMs: number): Promise<void> {
  const device = alteredDisk(new MemoryDisk(VOID_BYTES), {
    read(_offset, length, into, at) {
      into.fill(0x5a, at, at + length)
      return delayMs > 0 ? new Promise(resolve => { setTimeout(resolve, delayMs) }) : undefined
    },
    write: () => delayMs > 0 ? new Promise(resolve => { setTimeout(resolve, delayMs) }) : undefined,
    zeroRun: (_, length) => length,
  })
  const server = await createServer({ exports: { void: device }, listen: [{ path }] })
  process.on('message', message => {
    if (message === 'usage') process.send!({ rss: process.memoryUsage().rss, peak: peakBytes() })
    else void server.close({ deadlineMs: 5000 }).then(() => process.exit(0))
  })
  // The test has gone, however: so must we.
  process.once('disconnect', () => { void server.close({ deadlineMs: 0 }).finally(() => process.exit(0)) })
  process.send!('ready')
}

if (process.argv[1] === own) await serve(process.argv[2], Number(process.argv[3]))
