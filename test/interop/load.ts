/**
 * A seeded load of writes, zeroes, trims, flushes and checked reads over several connections, every outcome entered
 * into StampedWindows. Whole grains that were trimmed must read as zeros afterwards: that is nbdelta's promise.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { ConnectionLost, FUA, NO_HOLE, WireClient, WireError, ESHUTDOWN } from './wire-client.js'
import { SECTOR } from './stamped-windows.js'
import type { Range, StampedWindows } from './stamped-windows.js'

const MIB = 2 ** 20
/** How far a giant request goes beyond its window, at most; the windows lie farther apart than twice that. */
const GIANT_MARGIN = 256 * MIB
const GIANT_PAUSE_MS = 120

export interface LoadOptions {
  readonly model: StampedWindows
  readonly clients: readonly WireClient[]
  /** Requests in flight on each connection. */
  readonly depth: number
  readonly grainBytes: number
  readonly random: () => number
}

export class Load {
  readonly #options: LoadOptions
  #stopped = false
  /** What happened, for the report. */
  readonly counts = { write: 0, zero: 0, trim: 0, flush: 0, read: 0, refused: 0, unanswered: 0 }
  /** The first thing that must not happen. */
  failure = ''

  constructor(options: LoadOptions) { this.#options = options }

  get acknowledged(): number { return this.counts.write + this.counts.zero + this.counts.trim }

  /** Runs until `stop`, the end of the connections, or a failure. */
  async run(): Promise<void> {
    const { clients, depth } = this.#options
    await Promise.all([...clients.flatMap(client => Array.from({ length: depth }, () => this.#loop(client))), this.#giants(clients[0]!)])
  }

  stop(): void { this.#stopped = true }

  async #loop(client: WireClient): Promise<void> {
    while (!this.#stopped && !this.failure && !client.lost) {
      const range = this.#pick()
      if (!range) {
        await new Promise(setImmediate)
        continue
      }
      await this.#account(range, () => this.#one(client, range))
    }
  }

  /** Now and then a trim or zero of a whole window and up to 256 MiB on both sides: many map pages at once. */
  async #giants(client: WireClient): Promise<void> {
    const { model, random } = this.#options
    while (!this.#stopped && !this.failure && !client.lost) {
      await sleep(random() * 2 * GIANT_PAUSE_MS)
      const window = model.windows[Math.floor(random() * model.windows.length)]!
      const offset = Math.max(0, window.offset - Math.floor(random() * GIANT_MARGIN / SECTOR) * SECTOR)
      const end = Math.min(client.sizeBytes, window.offset + window.length + Math.floor(random() * GIANT_MARGIN / SECTOR) * SECTOR)
      const range = { offset, length: end - offset }
      model.hold(window)
      while (!model.claim(range, true)) await sleep(1)
      await this.#account(range, async () => {
        if (this.#stopped) return // told to stop while it waited for the window
        if (random() < 0.5) await this.#empty(range, 'zero', client.zero(range.offset, range.length))
        else await this.#empty(range, 'trim', client.trim(range.offset, range.length))
      })
      model.hold(undefined)
    }
  }

  /** Carries out one request on a claimed range and enters how it ended. */
  async #account(range: Range, request: () => Promise<void>): Promise<void> {
    try {
      await request()
    } catch (error) {
      if (error instanceof ConnectionLost) this.counts.unanswered++
      else if (error instanceof WireError && error.errno === ESHUTDOWN) {
        this.counts.refused++
        this.#stopped = true
      } else this.failure ||= error instanceof Error ? error.message : String(error)
    } finally {
      this.#options.model.release(range)
    }
  }

  /** A claimed range: mostly small, often off the grain's borders. */
  #pick(): Range | undefined {
    const { model, random, grainBytes } = this.#options
    const window = model.windows[Math.floor(random() * model.windows.length)]!
    const dice = random()
    let sectors = dice < 0.25 ? 1 : dice < 0.5 ? grainBytes / SECTOR : dice < 0.93 ? 1 + Math.floor(random() * 63) : 1 + Math.floor(random() * 1023)
    let start = Math.floor(random() * (window.length / SECTOR))
    if (dice >= 0.25 && dice < 0.5) start -= start % sectors
    sectors = Math.min(sectors, window.length / SECTOR - start)
    const range = { offset: window.offset + start * SECTOR, length: sectors * SECTOR }
    return model.claim(range) ? range : undefined
  }

  async #one(client: WireClient, range: Range): Promise<void> {
    const { model, random } = this.#options
    const dice = random()
    const fua = random() < 0.1 ? FUA : 0
    if (dice < 0.6) await this.#write(client, range, fua)
    else if (dice < 0.73) await this.#empty(range, 'zero', client.zero(range.offset, range.length, fua | (random() < 0.3 ? NO_HOLE : 0)))
    else if (dice < 0.85) await this.#empty(range, 'trim', client.trim(range.offset, range.length, fua))
    else if (dice < 0.88) {
      await client.flush()
      this.counts.flush++
    } else {
      this.failure ||= model.judge(range, await client.read(range.offset, range.length))
      this.counts.read++
    }
  }

  async #write(client: WireClient, range: Range, flags: number): Promise<void> {
    const { model } = this.#options
    const stamp = model.newStamp()
    try {
      await client.write(range.offset, model.bytes(range, stamp), flags)
    } catch (error) {
      model.doubtful(range, stamp)
      throw error
    }
    model.known(range, stamp)
    this.counts.write++
  }

  /** Zeroes and trims: exact for zeroes and for the whole grains of a trim, in doubt at a trim's edges. */
  async #empty(range: Range, kind: 'zero' | 'trim', answer: Promise<Buffer>): Promise<void> {
    const { model, grainBytes } = this.#options
    const end = range.offset + range.length
    const from = kind === 'zero' ? range.offset : Math.min(end, Math.ceil(range.offset / grainBytes) * grainBytes)
    const to = kind === 'zero' ? end : Math.max(from, Math.floor(end / grainBytes) * grainBytes)
    try {
      await answer
    } catch (error) {
      model.doubtful(range, 0)
      throw error
    }
    model.known({ offset: from, length: to - from }, 0)
    model.doubtful({ offset: range.offset, length: from - range.offset }, 0)
    model.doubtful({ offset: to, length: end - to }, 0)
    this.counts[kind]++
  }
}

/** Reads every window anew over a connection of its own; answers what is wrong, or ''. */
export async function audit(model: StampedWindows, path: string, exportName: string): Promise<string> {
  const client = await WireClient.connect(path, exportName)
  try {
    for (const window of model.windows) {
      for (let at = 0; at < window.length; at += MIB) {
        const range = { offset: window.offset + at, length: Math.min(MIB, window.length - at) }
        const wrong = model.judge(range, await client.read(range.offset, range.length))
        if (wrong) return wrong
      }
    }
    return ''
  } finally {
    await client.disconnect()
  }
}
