/**
 * Metadata contexts: which there are, what a query means, where the extents come from (PROTOCOL section 6).
 *
 * Names are "namespace:leaf"; leaves may contain colons. A query is an exact name; in LIST a few prefixes are wildcards, in
 * SET those select nothing (C6, C10). Whatever is not understood is ignored, never an error (C2).
 */
import { BASE_ALLOCATION } from '../../native-free/nbd/constants.js'
import type { BlockDevice, Extents } from '../device/block-device.js'

export interface MetadataContext {
  readonly name: string
  extents(device: BlockDevice, offset: number, length: number, maxExtents: number): Extents | Promise<Extents>
}

/** What every export offers. A device with contexts of its own adds rows behind these. */
export const CONTEXTS: readonly MetadataContext[] = Object.freeze([
  { name: BASE_ALLOCATION, extents: (device, offset, length, maxExtents) => device.extents(offset, length, maxExtents) },
])

export interface SelectedContext {
  readonly id: number
  readonly context: MetadataContext
}

/** In LIST these select everything that begins with them. */
const WILDCARDS: ReadonlySet<string> = new Set(['base:', 'qemu:', 'qemu:dirty-bitmap:'])

/** LIST: no query at all selects everything; each context at most once, in the server's order (C3). */
export function listContexts(available: readonly MetadataContext[], queries: readonly string[]): MetadataContext[] {
  if (queries.length === 0) return [...available]
  const matches = (query: string, name: string): boolean => query === name || (WILDCARDS.has(query) && name.startsWith(query))
  return available.filter(({ name }) => queries.some((query) => matches(query, name)))
}

/** SET: exact names only; no query selects nothing; doubled queries select once (C4). */
export function selectContexts(available: readonly MetadataContext[], queries: readonly string[]): MetadataContext[] {
  const asked = new Set(queries)
  return available.filter(({ name }) => asked.has(name))
}
