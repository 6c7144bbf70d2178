/**
 * FetchCount: how many sectors the kernel has fetched from block devices for this process, asked at most once per turn of
 * the event loop. The question costs 1 us with 16 threads and 4 us with 128, and trips ask at their begin and their end.
 *
 * All trips whose ends are told in one turn had ended before the first of them asks, so one answer serves all these. A
 * begin may take an older one: its trip only seems to have fetched more than it did, which is the safe side. But an answer
 * that a begin was given is too old for an end.
 */
import { existsSync } from 'node:fs'

/** Where the kernel accounts I/O to processes it also shows it here; elsewhere the count stays 0, which proves nothing. */
export const FETCHES_COUNTED = existsSync('/proc/self/io')

let known: number | undefined
let knownAtEnd = false
const forget = (): void => {
  known = undefined
  knownAtEnd = false
}

/** Sectors of 512 bytes; undefined where they are not counted. */
export function fetchedNow(): number | undefined {
  return FETCHES_COUNTED ? process.resourceUsage().fsRead : undefined
}

/** For a trip that begins: the same, as of some moment of this turn. */
export function fetchedAtBegin(): number | undefined {
  return known ?? ask()
}

/** For trips that have ended: as of this turn's first such question. */
export function fetchedAtEnd(): number | undefined {
  if (knownAtEnd) return known
  knownAtEnd = true
  return ask()
}

function ask(): number | undefined {
  if (known === undefined) setImmediate(forget)
  known = fetchedNow()
  return known
}
