/**
 * What was measured, kept between runs (a file beside the data files), so that a report is whole although workloads are
 * measured one at a time. A newer measurement of a workload replaces the older one.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Sample } from './clients.js'

/** Samples of one side, a round each; null: that round failed. */
export interface Comparison {
  readonly when: string
  readonly rounds: number
  readonly seconds: number
  readonly samples: Readonly<Record<string, readonly (Sample | null)[]>>
}

/** One figure of nbdelta alone; `limit` is what it must stay at or below, `floor` at or above. */
export interface Figure {
  readonly what: string
  readonly value: number
  readonly unit: string
  readonly limit?: number
  readonly floor?: number
}
export interface Special {
  readonly when: string
  readonly figures: readonly Figure[]
}

export interface Results {
  readonly comparisons: Record<string, Comparison>
  readonly specials: Record<string, Special>
}

const pathIn = (directory: string): string => join(directory, 'results.json')

export function loadResults(directory: string): Results {
  if (!existsSync(pathIn(directory))) return { comparisons: {}, specials: {} }
  return JSON.parse(readFileSync(pathIn(directory), 'utf8')) as Results
}

export function saveResults(directory: string, results: Results): void {
  writeFileSync(pathIn(directory), JSON.stringify(results, null, 1))
}

/** NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export function medianOf(comparison: Comparison, side: string, metric: 'rate' | 'cpuUs' | 'p99Us'): number {
  return median((comparison.samples[side] ?? []).flatMap(sample => sample ? [sample[metric]] : []))
}

/** Median over the rounds of `ours / theirs`: the two were measured within seconds, so the machine's mood cancels out. */
export function ratioOf(comparison: Comparison, ours: string, theirs: string, metric: 'rate' | 'cpuUs'): number {
  const [a = [], b = []] = [comparison.samples[ours], comparison.samples[theirs]]
  return median(a.flatMap((sample, round) => {
    const other = b[round]
    return sample && other ? [sample[metric] / other[metric]] : []
  }))
}
