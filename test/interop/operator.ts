/**
 * Takes snapshots of a volume under load, deletes, restores, clones and reads them, over the control socket, and knows what each must show.
 *
 * A command that was not answered because the server was killed has happened or not: `find` asks the server afterwards which, and both are
 * right as long as it is the whole of one. Refusals because of a pin, a reader or a job change nothing.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connectControl, type ControlClient } from '../../src/control/client.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { InteropServer } from '../../scripts/interop/server.js'
import { audit } from './load.js'
import type { Range, StampedWindows } from './stamped-windows.js'
import { ConnectionLost } from './wire-client.js'

/** More are deleted rather than taken: all are read again after every kill. */
const POINTS_MAX = 6
const CLONES_MAX = 2
const PAUSE_MS = 60
const HISTORY_MAX = 40
const RANGES_MAX = 100_000

type What = 'create' | 'delete' | 'restore' | 'clone' | 'drop'

interface Doubt {
  readonly what: What
  readonly name: string
  /** What the new snapshot or clone, or live after the restore, shows. */
  readonly windows: StampedWindows
  /** What the undo point of a restore shows. */
  readonly before?: StampedWindows
}

/** The load around the operator: it rests while live is changed as a whole. */
export interface Rest {
  stop(): Promise<void>
  start(): void
}

export class Operator {
  readonly points = new Map<string, StampedWindows>()
  readonly clones = new Map<string, StampedWindows>()
  /** Answered with yes; refused; and, of those that a kill left unanswered, which had happened. */
  readonly counts = { create: 0, delete: 0, restore: 0, clone: 0, drop: 0, look: 0, refused: 0, done: 0, undone: 0 }
  /** The first thing that must not happen. */
  failure = ''
  /** The last commands and what they came to, for whoever looks into a failure. */
  readonly history: string[] = []
  #doubt: Doubt | undefined
  #control: ControlClient | undefined
  #stopped = false
  #names = 0

  constructor(readonly server: InteropServer, readonly volume: string, readonly model: StampedWindows, readonly random: () => number) {}

  /** What was asked last and not answered so far. */
  get asking(): What | undefined { return this.#doubt?.what }

  stop(): void { this.#stopped = true }

  /** Goes on until it is stopped or the server is gone. */
  async run(load: Rest): Promise<void> {
    this.#stopped = false
    await this.#connect()
    while (!this.#stopped && !this.failure) {
      await sleep(this.random() * PAUSE_MS)
      const dice = this.random()
      const point = this.#pick(this.points)
      const clone = this.#pick(this.clones)
      if (point === undefined || (dice < 0.4 && this.points.size < POINTS_MAX)) await this.#create()
      else if (dice < 0.6) await this.#delete(point)
      else if (dice < 0.75) await this.#restore(point, load)
      else if (dice < 0.85) await this.#look(point)
      else if (clone !== undefined && (dice < 0.92 || this.clones.size >= CLONES_MAX)) await this.#drop(clone)
      else await this.#clone(point)
    }
  }

  /** After a kill: what the last command came to. Answers what is wrong, or ''. */
  async find(): Promise<string> {
    await this.#connect()
    const listed = await this.#listed()
    const volumes = (await this.#call('volume.list') as { name: string }[]).map(({ name }) => name).filter(name => name !== this.volume)
    const doubt = this.#doubt
    this.#doubt = undefined
    if (doubt) this.#count(this.#settle(doubt, listed, volumes) ? 'done' : 'undone', doubt)
    const wrong = [...differences('points', listed, this.points), ...differences('clones', volumes, this.clones)]
    return wrong.length > 0 ? `${wrong.join('; ')}${doubt ? ` (${doubt.what} ${doubt.name} was not answered)` : ''}` : ''
  }

  /** Live, every snapshot and every clone; then that no map forgets a change. Answers what is wrong, or ''. */
  async audit(): Promise<string> {
    const live = await audit(this.model, this.server.socketPath, this.volume)
    if (live) return `live: ${live}`
    for (const [name, windows] of this.points) {
      const wrong = await audit(windows, this.server.socketPath, `${this.volume}@${name}`)
      if (wrong) return `snapshot ${name}: ${wrong}`
    }
    for (const [name, windows] of this.clones) {
      const wrong = await audit(windows, this.server.socketPath, name)
      if (wrong) return `clone ${name}: ${wrong}`
    }
    return this.#auditMaps()
  }

  /** Everything goes: nothing may be pinned for ever by what a kill cut short. */
  async clear(): Promise<void> {
    await this.#connect()
    for (const name of this.clones.keys()) await this.#call('volume.delete', { name })
    this.clones.clear()
    for (const name of [...this.points.keys()]) {
      await patiently(() => this.#call('snapshot.delete', { volume: this.volume, name }))
      this.points.delete(name)
    }
  }

  disconnect(): void {
    this.#control?.close()
    this.#control = undefined
  }

  #settle({ what, name, windows, before }: Doubt, listed: readonly string[], volumes: readonly string[]): boolean {
    if (what === 'restore') {
      const undo = listed.find(other => !this.points.has(other))
      if (undo === undefined) return false
      this.points.set(undo, before!)
      this.model.become(windows)
      return true
    }
    const there = (what === 'create' || what === 'delete' ? listed : volumes).includes(name)
    const known = what === 'create' || what === 'delete' ? this.points : this.clones
    if (there) known.set(name, windows)
    else known.delete(name)
    return there === (what === 'create' || what === 'clone')
  }

  /** While the load goes on: what is in flight may be in it or not. */
  async #create(): Promise<void> {
    const name = `s${++this.#names}`
    const windows = this.model.take()
    const good = await this.#ask({ what: 'create', name, windows }, 'snapshot.create', { volume: this.volume, name })
    await this.model.taken(windows)
    if (good) this.points.set(name, windows)
  }

  async #delete(name: string): Promise<void> {
    const good = await this.#ask({ what: 'delete', name, windows: this.points.get(name)! }, 'snapshot.delete', { volume: this.volume, name })
    if (good) this.points.delete(name)
  }

  /** The load rests until the restore is answered, and then runs while the copier does. */
  async #restore(name: string, load: Rest): Promise<void> {
    await load.stop()
    if (this.#stopped) return
    const doubt = { what: 'restore', name, windows: this.points.get(name)!.copy(), before: this.model.copy() } as const
    // The pace leaves some restores unfinished when the kill comes.
    const rate = this.random() < 0.5 ? {} : { rate: '8MiB/s' }
    if (await this.#ask(doubt, 'snapshot.restore', { volume: this.volume, name, force: true, wait: false, ...rate })) await this.#restored(doubt)
    if (!this.#stopped) load.start()
  }

  async #restored(doubt: Doubt): Promise<void> {
    this.model.become(doubt.windows)
    try {
      const undo = (await this.#listed()).find(other => !this.points.has(other))
      if (undo !== undefined) this.points.set(undo, doubt.before!)
    } catch (error) {
      this.#lost(error)
      // It was answered, so it has happened; only the undo point's name is not known yet.
      this.#doubt = doubt
    }
  }

  async #clone(from: string): Promise<void> {
    const name = `c${++this.#names}`
    const windows = this.points.get(from)!.copy()
    if (await this.#ask({ what: 'clone', name, windows }, 'snapshot.clone', { volume: this.volume, name: from, to: name })) this.clones.set(name, windows)
  }

  async #drop(name: string): Promise<void> {
    if (await this.#ask({ what: 'drop', name, windows: this.clones.get(name)! }, 'volume.delete', { name })) this.clones.delete(name)
  }

  /** Reads a snapshot while live is written to. */
  async #look(name: string): Promise<void> {
    try {
      const wrong = await audit(this.points.get(name)!, this.server.socketPath, `${this.volume}@${name}`)
      if (wrong) this.failure ||= `snapshot ${name}, read under load: ${wrong}`
      else this.counts.look++
    } catch (error) {
      this.#lost(error)
    }
  }

  /** Whether it was answered with yes. */
  async #ask(doubt: Doubt, method: string, params: Readonly<Record<string, unknown>>): Promise<boolean> {
    this.#doubt = doubt
    try {
      await this.#call(method, params)
      this.#doubt = undefined
      this.#count(doubt.what, doubt)
      return true
    } catch (error) {
      if (error instanceof NbdeltaError && error.code === 'busy') {
        this.#doubt = undefined
        this.#count('refused', doubt)
      } else this.#lost(error, `${doubt.what} ${doubt.name}: `)
      return false
    }
  }

  #count(outcome: keyof Operator['counts'], { what, name }: Doubt): void {
    this.counts[outcome]++
    this.history.push(`${what} ${name}${outcome === what ? '' : ` (${outcome})`}`)
    if (this.history.length > HISTORY_MAX) this.history.shift()
  }

  #lost(error: unknown, words = ''): void {
    this.#stopped = true
    if (error instanceof ConnectionLost || (error instanceof NbdeltaError && error.code === 'unreachable')) return
    if (error instanceof Error && /ECONNREFUSED|ENOENT|ECONNRESET/.test(error.message)) return
    this.failure ||= `${words}${error instanceof Error ? error.message : String(error)}`
  }

  /** What differs between a snapshot and live, or the next snapshot, must be marked (D4). All have just been read: nothing is in doubt. */
  async #auditMaps(): Promise<string> {
    const rows = [...this.points.entries()].sort(([a], [b]) => this.#order.indexOf(a) - this.#order.indexOf(b))
    for (const [index, [from, windows]] of rows.entries()) {
      const next = rows[index + 1]
      for (const [to, other] of [[undefined, this.model] as const, ...next ? [next] : []]) {
        const { ranges } = await this.#call('snapshot.diff',
          { volume: this.volume, from, ...to !== undefined && { to }, limit: RANGES_MAX }) as { ranges: readonly Range[] }
        const unmarked = windows.differences(other).find(at => !ranges.some(range => at >= range.offset && at < range.offset + range.length))
        if (unmarked !== undefined) return `the map from ${from} to ${to ?? 'live'} does not mark byte ${unmarked}, which differs`
      }
    }
    return ''
  }

  /** Names as listed last, oldest first. */
  #order: readonly string[] = []

  async #listed(): Promise<string[]> {
    const names = (await this.#call('snapshot.list', { volume: this.volume }) as { name: string }[]).map(({ name }) => name)
    this.#order = names
    return names
  }

  async #connect(): Promise<void> {
    this.disconnect()
    const path = join(this.server.store, 'control.sock')
    this.#control = await patiently(() => connectControl(path), 'unreachable')
  }

  #call(method: string, params: Readonly<Record<string, unknown>> = {}): Promise<unknown> { return this.#control!.call(method, params) }

  #pick(names: ReadonlyMap<string, unknown>): string | undefined { return [...names.keys()][Math.floor(this.random() * names.size)] }
}

/** Asks again for a minute while the answer is this error. */
async function patiently<T>(ask: () => Promise<T>, code = 'busy'): Promise<T> {
  for (const deadline = Date.now() + 60_000; ;) {
    try {
      return await ask()
    } catch (error) {
      if (!(error instanceof NbdeltaError) || error.code !== code || Date.now() > deadline) throw error
      await sleep(50)
    }
  }
}

function differences(what: string, found: readonly string[], wanted: ReadonlyMap<string, unknown>): string[] {
  const names = [...wanted.keys()].sort().join()
  return [...found].sort().join() === names ? [] : [`the ${what} are ${[...found].sort().join()}, not ${names}`]
}
