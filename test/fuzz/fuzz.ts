/**
 * One run of the fuzzer: `inputs` mutated inputs from a seed, several lanes at a time, with a check of the server's health
 * after each slice. Stops at the first failure and says which inputs were being run.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Lane } from './lane.js'
import { makeInput } from './mutate.js'
import { Target } from './target.js'

const LANES = 12
const SLICE = 2000
const MIB = 2 ** 20
/** Growth of live memory after the first tenth of the run that is put down to caches and pools that are still filling. */
const GROWTH_BYTES = 32 * MIB

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Bytes that something still refers to. The process's size would also count what the collector has not got round to. */
function liveBytes(): number {
  collect()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

export interface FuzzOptions {
  readonly seed: number
  readonly inputs: number
  /** First index, for replay. */
  readonly from?: number
  progress?(done: number, perSecond: number): void
}

export interface FuzzResult {
  readonly inputs: number
  readonly seconds: number
  readonly connections: number
  readonly grownBytes: number
  readonly failure?: { readonly error: unknown, readonly indices: readonly number[] }
}

export async function fuzz({ seed, inputs, from = 0, progress }: FuzzOptions): Promise<FuzzResult> {
  const target = await Target.start()
  const lanes = Array.from({ length: LANES }, () => new Lane(target.address.path))
  const running = new Set<number>()
  const started = performance.now()
  let next = from
  let baseline = 0
  let unexpected: unknown
  const crash = (error: unknown): void => { unexpected ??= error ?? new Error('rejected without a reason') }
  process.on('uncaughtException', crash)
  process.on('unhandledRejection', crash)
  const result = (failure?: { error: unknown, indices: number[] }): FuzzResult => ({
    inputs: next - from, seconds: (performance.now() - started) / 1000,
    connections: lanes.reduce((sum, lane) => sum + lane.connections, 0),
    grownBytes: baseline ? liveBytes() - baseline : 0, ...failure && { failure },
  })
  const slice = async (lane: Lane, end: number): Promise<void> => {
    while (next < end && unexpected === undefined) {
      const index = next++
      running.add(index)
      await lane.run(makeInput(seed, index))
      running.delete(index)
    }
  }
  try {
    while (next < from + inputs) {
      const end = Math.min(next + SLICE, from + inputs)
      await Promise.all(lanes.map(lane => slice(lane, end)))
      if (unexpected !== undefined) throw unexpected
      for (const lane of lanes) await lane.end()
      await target.check()
      if (baseline === 0 && next - from >= inputs / 10) baseline = liveBytes()
      progress?.(next - from, (next - from) / ((performance.now() - started) / 1000))
    }
    const grown = result().grownBytes
    if (grown > GROWTH_BYTES) throw new Error(`memory has grown by ${(grown / MIB).toFixed(0)} MiB since the first tenth`)
    return result()
  } catch (error) {
    return result({ error: unexpected ?? error, indices: [...running] })
  } finally {
    process.off('uncaughtException', crash)
    process.off('unhandledRejection', crash)
    await target.stop()
  }
}
