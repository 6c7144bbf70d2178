/**
 * InstantLog: which write of a volume was sent and answered when, by one clock for all volumes, to judge contents that claim one instant.
 *
 * A write that was sent after another had been answered is in no such content without that other, whichever two volumes they went to.
 * Limits: what was written before its clients were started counts as older than all of it.
 */
const EVENTS_MAX = 16

let ticks = 0
export function tick(): number { return ++ticks }

/** `answered` Infinity: it was refused or lost, and may be there all the same. */
interface Event { readonly serial: number, readonly sent: number, readonly answered: number }

export class InstantLog {
  /** Of each sector, in order: no two writes of it were in flight together. */
  readonly #events = new Map<number, Event[]>()

  note(from: number, count: number, event: Event): void {
    for (let sector = from; sector < from + count; sector++) {
      const events = this.#events.get(sector) ?? []
      events.push(event)
      if (events.length > EVENTS_MAX) events.shift()
      this.#events.set(sector, events)
    }
  }

  /** When the newest write that is certainly in it was sent. */
  newest(found: Int32Array): number {
    let newest = 0
    for (const [sector, events] of this.#events) {
      const event = found[sector] === 0 ? undefined : events.find(({ serial }) => serial === found[sector])
      if (event) newest = Math.max(newest, event.sent)
    }
    return newest
  }

  /** What should have been in it, if something is that was sent at `since`; or ''. */
  lacks(found: Int32Array, since: number): string {
    for (const [sector, events] of this.#events) {
      if (sector >= found.length) continue
      const due = events.findLastIndex(({ answered }) => answered < since)
      const there = events.findLastIndex(({ serial }) => serial === found[sector])
      if (there < due) return `sector ${sector} has ${found[sector]}, though ${events[due]!.serial} was answered at ${events[due]!.answered}`
    }
    return ''
  }
}

/** What is wrong with contents of one instant, or ''. */
export function judgeInstant(contents: readonly { readonly name: string, readonly log: InstantLog, readonly found: Int32Array }[]): string {
  for (const one of contents) {
    for (const other of contents) {
      const since = one.log.newest(one.found)
      const lacking = other.log.lacks(other.found, since)
      if (lacking) return `${other.name} is older than ${one.name}, which has what was sent at ${since}: ${lacking}`
    }
  }
  return ''
}
