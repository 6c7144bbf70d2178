/**
 * The load: nbdload (ours), fio and nbdcopy, each with the server's CPU time over exactly the work it counted.
 */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { $ } from '../zx.js'
import { withCpuPeak } from './server-process.js'
import type { ServerProcess } from './server-process.js'
import { uriOf } from './sides.js'
import type { Place, Side } from './sides.js'
import type { Workbench } from './workbench.js'
import { isStream } from './workloads.js'
import type { Workload } from './workloads.js'

/** One measurement. `rate` is MB/s for streams and copies, operations a second for the rest. */
export interface Sample {
  readonly rate: number
  /** CPU microseconds of the server for one operation (for copies: for 256 KiB). */
  readonly cpuUs: number
  readonly p99Us: number
}

export interface LoadOptions {
  readonly mode: string
  readonly blockBytes?: number
  readonly depth?: number
  readonly connections?: number
  readonly seconds?: number
  readonly warmSeconds?: number
  /** Pause before each request. */
  readonly thinkUs?: number
  /** Random requests begin at multiples of it; by default of blockBytes. */
  readonly strideBytes?: number
}
export interface LoadResult {
  readonly operations: number
  readonly seconds: number
  readonly p50Us: number
  readonly p99Us: number
  readonly p999Us: number
  readonly maxUs: number
}
type Target = { readonly socket: string } | { readonly port: number }

/** Before each timed run: the server's code is compiled and its buffers are there. */
const WARM_SECONDS = 0.3

/** nbdload, step by step: connected and warm after `start`, busy during `go`, attached until `close`. */
export class Load {
  readonly #child
  readonly #lines: AsyncIterator<string>
  #errors = ''

  private constructor(program: string, args: readonly string[]) {
    this.#child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#child.stderr.on('data', data => { this.#errors += String(data) })
    this.#child.stdin.on('error', () => { /* it ended; what it said is in #errors */ })
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  static async start(bench: Workbench, target: Target, exportName: string, options: LoadOptions): Promise<Load> {
    const { mode, blockBytes = 4096, depth = 1, connections = 1, seconds = 1 } = options
    const { warmSeconds = 0, thinkUs = 0, strideBytes = blockBytes } = options
    const to = 'socket' in target ? ['--socket', target.socket] : ['--port', String(target.port)]
    const amounts = { bs: blockBytes, depth, conns: connections, seconds, warm: warmSeconds, 'think-us': thinkUs, stride: strideBytes }
    const load = new Load(bench.nbdload, [...to, '--export', exportName, '--mode', mode,
      ...Object.entries(amounts).flatMap(([name, amount]) => [`--${name}`, String(amount)])])
    await load.#line()
    return load
  }

  async go(): Promise<LoadResult> {
    this.#child.stdin.write('\n')
    return JSON.parse(await this.#line()) as LoadResult
  }

  async close(): Promise<void> {
    this.#child.stdin.end()
    if (this.#child.exitCode === null) await new Promise(resolve => this.#child.once('close', resolve))
  }

  async #line(): Promise<string> {
    const { value, done } = await this.#lines.next() as IteratorResult<string>
    if (done) throw new Error(`nbdload: ${this.#errors.trim() || 'ended'}`)
    return value
  }
}

/** One measurement about to be made, of a server that runs. */
export interface Run {
  readonly bench: Workbench
  readonly side: Side
  readonly place: Place
  readonly server: ServerProcess
  readonly workload: Workload
  readonly seconds: number
}

export function measure(run: Run): Promise<Sample> {
  if (run.workload.client === 'copy') return measureCopy(run)
  return run.workload.client === 'fio' ? measureFio(run) : measureLean(run)
}

async function measureLean({ bench, side, place, server, workload, seconds }: Run): Promise<Sample> {
  const target = workload.transport === 'unix' ? { socket: place.socket } : { port: place.port }
  const { kind: mode, blockBytes, depth, connections } = workload
  // A warm-up would cache what the cold workload is about to read.
  const warmSeconds = workload.client === 'cold' ? 0 : WARM_SECONDS
  const load = await Load.start(bench, target, side.exportName, { mode, blockBytes, depth, connections, seconds, warmSeconds })
  try {
    const before = server.cpuSeconds()
    const { operations, seconds: took, p99Us } = await load.go()
    const cpu = server.cpuSeconds() - before
    return sampleOf(workload, operations / took, cpu / Math.max(1, operations), p99Us)
  } finally { await load.close() }
}

interface FioSide {
  readonly total_ios: number
  readonly iops: number
  readonly clat_ns: { readonly percentile?: Record<string, number> }
}
interface FioReport { readonly jobs: readonly { readonly error: number, readonly read: FioSide, readonly write: FioSide }[] }

async function measureFio({ side, place, server, workload, seconds }: Run): Promise<Sample> {
  const { kind, blockBytes, depth, connections } = workload
  const args = ['--name=bench', '--ioengine=nbd', `--uri=${uriOf(side, place, workload.transport)}`, `--rw=${kind}`,
    `--bs=${blockBytes}`, `--iodepth=${depth}`, `--numjobs=${connections}`, '--thread', '--group_reporting', '--norandommap',
      '--time_based',
    `--runtime=${Math.round(seconds * 1000)}ms`, `--ramp_time=${WARM_SECONDS * 1000}ms`, '--output-format=json']
  const before = server.cpuSeconds()
  const { result, cpuSeconds } = await withCpuPeak(server, $({ nothrow: true, quiet: true })`fio ${args}`)
  if (result.exitCode !== 0) throw new Error(`fio: ${(result.stderr || result.stdout).trim().slice(-400)}`)
  const job = (JSON.parse(result.stdout.slice(result.stdout.indexOf('{'))) as FioReport).jobs[0]!
  if (job.error) throw new Error(`fio: error ${job.error}`)
  const busy = job.write.total_ios > job.read.total_ios ? job.write : job.read
  // The CPU reading covers the ramp as well, the count does not.
  const share = seconds / (seconds + WARM_SECONDS)
  const p99Us = (busy.clat_ns.percentile?.['99.000000'] ?? 0) / 1000
  return sampleOf(workload, busy.iops, (cpuSeconds - before) * share / Math.max(1, busy.total_ios), p99Us)
}

async function measureCopy({ bench, side, place, server, workload }: Run): Promise<Sample> {
  const uri = uriOf(side, place, workload.transport)
  const args = workload.kind === 'out' ? [uri, 'null:'] : [await bench.source(), uri]
  await $`nbdcopy ${workload.kind === 'out' ? args : [await bench.warmSource(), uri]}`.quiet()
  const before = server.cpuSeconds()
  const begin = performance.now()
  const { cpuSeconds } = await withCpuPeak(server, $`nbdcopy ${args}`.quiet())
  const pieces = bench.sizeBytes / workload.blockBytes
  return sampleOf(workload, pieces / ((performance.now() - begin) / 1000), (cpuSeconds - before) / pieces, 0)
}

function sampleOf(workload: Workload, perSecond: number, cpuSeconds: number, p99Us: number): Sample {
  return { rate: isStream(workload) ? perSecond * workload.blockBytes / 1e6 : perSecond, cpuUs: cpuSeconds * 1e6, p99Us }
}
