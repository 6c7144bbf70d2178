/**
 * Metadata contexts: which there are, what a query means, where the extents come from (PROTOCOL section 6).
 *
 * Every export has base:allocation, which its device answers; a provider may name more, and binds those a client selected
 * when it opens the export. Names are "namespace:leaf"; leaves may contain colons. A query is an exact name; in LIST a few
 * prefixes are wildcards, in SET those select nothing (C6, C10). Whatever is not understood is ignored, never an error (C2).
 */
import { BASE_ALLOCATION } from '../../native-free/nbd/constants.js'
import type { ExportHandle, ExportProvider, StatusSource } from './export.js'

/** Most contexts one LIST shows: 1,024 names of 100 bytes are a reply of 130 KiB. Those behind can be selected all the same. */
export const LISTED_CONTEXTS_MAX = 1024
/** Most contexts one SET selects (C4): 16 shortest chunks are 900 bytes of a small slab; each may cost its provider memory. */
export const SELECTED_CONTEXTS_MAX = 16

/** What a client selected, before its export is opened. */
export interface SelectedContext {
  readonly id: number
  readonly name: string
}

/** The same in transmission. */
export interface BoundContext {
  readonly id: number
  readonly source: StatusSource
}

/** In LIST these select everything that begins with them. */
const WILDCARDS: readonly string[] = ['base:', 'qemu:', 'qemu:dirty-bitmap:']

/** The names an export offers, in order. */
export function contextNames(provider: ExportProvider, exportName: string): string[] {
  return [BASE_ALLOCATION, ...provider.contexts?.(exportName) ?? []]
}

/** LIST: no query at all selects everything; each context at most once, in the server's order (C3). */
export function listContexts(available: readonly string[], queries: readonly string[]): string[] {
  const asked = new Set(queries)
  const wild = WILDCARDS.filter((prefix) => asked.has(prefix))
  const matches = (name: string): boolean => asked.has(name) || wild.some((prefix) => name.startsWith(prefix))
  const found = queries.length === 0 ? available : available.filter(matches)
  return found.slice(0, LISTED_CONTEXTS_MAX)
}

/** SET: exact names only; no query selects nothing; doubled queries select once (C4). */
export function selectContexts(available: readonly string[], queries: readonly string[]): string[] {
  const asked = new Set(queries)
  return available.filter((name) => asked.has(name))
}

/** The contexts the provider has to bind when it opens the export. */
export function providedContexts(selected: readonly SelectedContext[]): string[] {
  return selected.map(({ name }) => name).filter((name) => name !== BASE_ALLOCATION)
}

/** Who answers for what the client selected. */
export function bindContexts(selected: readonly SelectedContext[], handle: ExportHandle): BoundContext[] {
  return selected.map(({ id, name }) => {
    const source = name === BASE_ALLOCATION ? handle.device : handle.contexts?.get(name)
    if (source === undefined) throw new Error(`export ${handle.info.name} was opened without its context ${name}`)
    return { id, source }
  })
}
