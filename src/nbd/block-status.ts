/**
 * BLOCK_STATUS replies: one chunk for each context asked for, DONE on the last (PROTOCOL B1-B3, E6).
 * A reply that finds little memory is shorter than it could be, never late: a client asks again for the rest.
 */
import { CHUNK_FLAG_DONE } from '../../native-free/nbd/constants.js'
import { chunkHeaderBytes, putStatusChunk, statusPayloadBytes } from '../../native-free/nbd/transmission.js'
import type { Echo, ReplyStyle, StatusFilter } from '../../native-free/nbd/transmission.js'
import type { Extents } from '../device/block-device.js'
import type { BoundContext } from './metadata-contexts.js'
import type { Outbox } from './outbox.js'

/** Longest extent of a 32-bit reply: the largest multiple of the largest block size (64 KiB) that fits (B3). */
const LONGEST_COMPACT_EXTENT = 2 ** 32 - 2 ** 16

/** The contexts a filter payload names (E5); undefined when an id is unknown or named twice. */
export function filterContexts(
  contexts: readonly BoundContext[], filter: StatusFilter,
): readonly BoundContext[] | undefined {
  const asked = new Set(filter.ids)
  const found = contexts.filter(({ id }) => asked.has(id))
  return found.length === filter.ids.length && asked.size === filter.ids.length ? found : undefined
}

/** The extents of each context, in order, `maxExtents` in all; a promise when one source answers later. */
export function lookUpStatus(
  contexts: readonly BoundContext[], range: { offset: number, length: number }, maxExtents: number,
): readonly Extents[] | Promise<readonly Extents[]> {
  const each = Math.max(1, Math.floor(maxExtents / contexts.length))
  const found = contexts.map(({ source }) => source.extents(range.offset, range.length, each))
  return found.some((extents) => extents instanceof Promise) ? Promise.all(found) : found as Extents[]
}

/** Writes the reply, in as much room as it can get. The least is an empty small slab: SELECTED_CONTEXTS_MAX fit that. */
export function replyStatus(
  outbox: Outbox, style: ReplyStyle, echo: Echo, contexts: readonly BoundContext[], found: readonly Extents[],
): void {
  const clipped = style === 'extended' ? found : found.map(clip)
  const headerBytes = chunkHeaderBytes(style)
  const bytes = clipped.reduce((sum, { lengths }) => sum + headerBytes + statusPayloadBytes(style, lengths.length), 0)
  if (!outbox.reserve(bytes)) outbox.reserveReply()
  const slab = outbox.slab!
  const share = Math.floor((slab.size - outbox.at) / contexts.length) - headerBytes - statusPayloadBytes(style, 0)
  const entryBytes = statusPayloadBytes(style, 1) - statusPayloadBytes(style, 0)
  const most = bytes <= slab.size - outbox.at ? Infinity : Math.floor(share / entryBytes)
  contexts.forEach(({ id }, i) => {
    const { lengths, states } = clipped[i]!
    const flags = i === contexts.length - 1 ? CHUNK_FLAG_DONE : 0
    outbox.at = putStatusChunk(style, slab.view, outbox.at, flags, echo, id, lengths.slice(0, most), states.slice(0, most))
  })
}

/** Cuts the list at the first extent that 32 bits cannot tell. */
function clip(extents: Extents): Extents {
  const at = extents.lengths.findIndex((length) => length > LONGEST_COMPACT_EXTENT)
  if (at < 0) return extents
  return { lengths: [...extents.lengths.slice(0, at), LONGEST_COMPACT_EXTENT], states: extents.states.slice(0, at + 1) }
}
