/**
 * Delta streams in a storm: written from one point to another while everything goes on, in either direction or whole, and applied to
 * the volume when it is at their base, as the server does it or as a program that keeps positions does.
 *
 * Judged: a stream leads from what its base is to what its target is; a volume that is taken to be at a base is; behind an import it
 * is what the target was; one that was cut short or failed leaves the base, where the server had begun it; what was told as applied
 * durably is, for a program that goes on there after a crash.
 */
import { Readable, Writable } from 'node:stream'
import type { DeltaPosition } from '../../native-free/delta-record.js'
import { DeltaDecoder } from '../../native-free/delta-stream.js'
import { identityOf, runsBetween } from '../../src/daemon-deltas.js'
import { ImportGuard, ORIGIN, undoImportsOf } from '../../src/daemon-imports.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { silentLogger } from '../../src/device/logger.js'
import type { Store } from '../../src/volume/open-store.js'
import { NO_BUDGET } from '../../src/volume/space.js'
import { applyDelta, type DeltaBase, exportDelta } from '../../src/volume/delta.js'
import { sha256 } from '../../src/volume/delta-pipe.js'
import type { RestoreOptions } from '../../src/volume/restore.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { GRAIN } from './lab.js'
import { CutShort } from './storm-ground.js'
import { isBudgetRefusal, type Lab, SECTORS, sectors, Wrong } from './storm-lab.js'
import { GONE, SECTOR, valuesOf } from './storm-model.js'
import type { StormPoints } from './storm-points.js'

/** Kept to be applied. */
const STREAMS_MAX = 4
/** An import waits for so long until nobody else changes the volume. */
const PATIENCE_TURNS = 300
const PIN_MS = 5_000
const MARK_BYTES = 2 * GRAIN
/** Bytes of a stream that come at a time. */
const CHUNK_BYTES = [700, 3000, 100_000]

interface Stream {
  readonly bytes: Buffer
  /** Null: it is whole. */
  readonly base: { readonly uuid: string, readonly sizeBytes: number, readonly values: readonly number[] } | null
  readonly target: DeltaBase & { readonly name: string, readonly values: readonly number[] }
}

interface Import {
  readonly stream: Stream
  /** The server keeps the base pinned, and brings it back. */
  readonly isGuarded: boolean
  /** The first write may have come. */
  isBegun: boolean
  /** Of a program that goes on there. */
  position: DeltaPosition | undefined
}

/** What a storm does to its volume for an import. */
interface Hands {
  resizeTo(sizeBytes: number): Promise<void>
  readonly isResizing: boolean
}

export class StormDeltas {
  readonly #lab: Lab
  readonly #points: StormPoints
  readonly #hands: Hands
  #streams: Stream[] = []
  /** It has the volume for itself. */
  #import: Import | undefined
  #isGoing = false

  constructor(lab: Lab, points: StormPoints, hands: Hands) {
    this.#lab = lab
    this.#points = points
    this.#hands = hands
    lab.onOpened = () => this.#opened()
  }

  export(): void {
    const { random } = this.#lab
    const to = this.#points.some(['snapshot'])
    const from = random(4) === 0 ? undefined : this.#points.some(['snapshot', 'bookmark'])
    if (to !== undefined) this.#lab.fly(`export ${from ?? 'nothing'} to ${to}`, () => this.#export(from, to), () => undefined)
  }

  /** As daemon-deltas.ts does it. */
  async #export(from: string | undefined, to: string): Promise<void> {
    const lab = this.#lab
    const { volume } = lab
    const isMine = lab.lives()
    const device = volume.points.open(to)
    const owner = `delta export ${lab.serial}`
    const pinned = from === undefined ? [to] : [to, from]
    try {
      const expiresAt = new Date(lab.clock.wallTime().getTime() + PIN_MS).toISOString()
      for (const name of pinned) await volume.points.pin(name, { owner, expiresAt })
      const base = from === undefined ? undefined : volume.points.get(from)
      if (!base && from !== undefined) throw new NbdeltaError('not-found', 'the base has gone')
      const runs = base && runsBetween(volume, base, device.point)
      const bytes = await this.#collected(sink => exportDelta({ volume, from: base, to: device, runs, sink, markBytes: MARK_BYTES, clock: lab.clock }))
      if (!isMine()) return
      this.#judge(bytes, from, to)
      const before = from === undefined ? undefined : this.#points.contentOf(from)
      if (from !== undefined && !before) return
      const stream = { bytes, base: base && before ? { uuid: base.uuid, sizeBytes: base.sizeBytes, values: before } : null,
        target: { uuid: device.point.uuid, seq: device.point.seq, sizeBytes: device.point.sizeBytes, name: to, values: this.#points.contentOf(to)! } }
      if (stream.target.values) this.#streams = [...this.#streams, stream].slice(-STREAMS_MAX)
      lab.count(`exported${base && base.seq > device.point.seq ? ' back' : base ? '' : ' whole'}`)
    } finally {
      await device.close()
      for (const name of pinned) if (isMine()) await volume.points.unpin(name, owner)
    }
  }

  /** Whoever takes the stream is late. */
  async #collected(write: (sink: Writable) => Promise<unknown>): Promise<Buffer> {
    const lab = this.#lab
    const chunks: Buffer[] = []
    const sink = new Writable({
      highWaterMark: 1024,
      write: (chunk: Buffer, _, done) => {
        chunks.push(Buffer.from(chunk))
        lab.machine.at(lab.random(4), done)
      },
    })
    await write(sink)
    return Buffer.concat(chunks)
  }

  /** @param from undefined: nothing */
  #judge(bytes: Buffer, from: string | undefined, to: string): void {
    const told = toldBy(bytes)
    const before = from === undefined ? undefined : this.#points.contentOf(from)
    const mayBe = from === undefined ? undefined : this.#points.allowedOf(from)
    const after = this.#points.allowedOf(to)
    for (const [sector, allowed] of after.entries()) {
      const what = `the stream from ${from ?? 'nothing'} to ${to}: sector ${sector}`
      const value = told.get(sector)
      if (value !== undefined && !allowed.has(value)) throw new Wrong(`${what} is ${value}, not one of ${[...allowed].join(' ')}`)
      if (value !== undefined || allowed.has(GONE)) continue
      if (!mayBe || [...mayBe[sector]].every(one => !allowed.has(one))) throw new Wrong(`${what} is not in it, and is one of ${[...allowed].join(' ')}`)
    }
    const isWhole = (sector: number): boolean => told.has(sector) || before !== undefined
    if (!after.every((allowed, sector) => isWhole(sector) || allowed.has(GONE))) return
    this.#points.saw(to, after.map((allowed, sector) => allowed.has(GONE) ? GONE : told.get(sector) ?? before![sector]))
  }

  /** Of one that was cut short a program goes on, perhaps. */
  import(): void {
    const lab = this.#lab
    const { random } = lab
    if (this.#isGoing || this.#isToBeUndone) return
    if (random(4) === 0) this.release()
    const stream = this.#streams[random(this.#streams.length)]
    if (!this.#import && stream) this.#import = { stream, isGuarded: random(2) === 0, isBegun: false, position: undefined }
    if (!this.#import) return
    const of = this.#import
    this.#isGoing = true
    lab.isTaken = true
    const { base, target: { name } } = of.stream
    const over = (): void => {
      this.#isGoing = false
      if (!of.isBegun || (!of.isGuarded && !of.position)) this.release()
    }
    lab.fly(`import ${base ? 'a delta' : 'all'} to ${name}${of.position ? ', the rest' : ''}`, () => this.#run(of), over, over, ['exists'])
  }

  /** The server is to be started again. */
  get #isToBeUndone(): boolean { return this.#import !== undefined && this.#import.isGuarded && this.#import.isBegun }

  /** Nothing is in flight, and nobody goes on. */
  rest(): void { if (!this.#isToBeUndone) this.release() }

  /** The volume is everybody's again. */
  release(): void {
    this.#import = undefined
    this.#lab.isTaken = false
  }

  get #isAlone(): boolean { return this.#lab.model.running.size === 0 && !this.#points.isRestoring && !this.#hands.isResizing }

  async #run(of: Import): Promise<void> {
    const lab = this.#lab
    const isMine = lab.lives()
    for (let turns = 0; !this.#isAlone; turns++) {
      if (turns > PATIENCE_TURNS) return
      await new Promise<void>(resolve => { lab.machine.at(1, resolve) })
      if (!isMine()) return
    }
    if (!of.isBegun && !await this.#reachBase(of.stream)) return
    if (!isMine()) return
    await (of.isGuarded ? this.#guarded(of) : this.#unguarded(of))
    if (!isMine()) return
    lab.count(`imported${of.isGuarded ? '' : of.position ? ' and kept positions' : ' unguarded'}`)
    of.isBegun = false
  }

  /** The volume becomes what the stream starts from. False: it cannot. */
  async #reachBase({ base }: Stream): Promise<boolean> {
    const { volume, random } = this.#lab
    if (!base) {
      await this.#device.trim(0, volume.sizeBytes)
      return true
    }
    const point = volume.points.list().findLast(({ uuid, kind, labels }) => kind === 'snapshot' && (uuid === base.uuid || labels[ORIGIN] === base.uuid))
    if (!point || !this.#points.contentOf(point.name)) return false
    if (random(3) === 0) return true
    if (volume.sizeBytes !== point.sizeBytes) await this.#hands.resizeTo(point.sizeBytes)
    if (!this.#points.hasRoomToRestore || !this.#points.contentOf(point.name)) return false
    await this.#restore(point.name, {})
    return true
  }

  /** @returns its job */
  async #restore(from: string, options: Partial<RestoreOptions>, isPassing = false): ReturnType<StoreVolume['restore']> {
    const lab = this.#lab
    const isMine = lab.lives()
    const { whenHeld, atInstant, done, failed } = this.#points.restoring(from, this.#points.contentOf(from)!, undefined, isPassing)
    try {
      const job = await lab.volume.restore({ ...options, from, whenHeld, atInstant })
      if (!isMine()) return job
      done()
      return job
    } catch (error) {
      if (isMine()) failed()
      throw error
    }
  }

  /** The volume, whose changes the model is told. */
  get #device(): BlockDevice {
    const { volume } = this.#lab
    const change = async (what: string, values: ReadonlyMap<number, number>, begin: () => unknown): Promise<void> => {
      const { model } = this.#lab
      const isMine = this.#lab.lives()
      const op = model.begin(`${what} of an import`, values)
      try {
        await begin()
        if (isMine()) model.done(op)
      } catch (error) {
        if (isMine()) model.failed(op)
        throw error
      }
    }
    return {
      get sizeBytes() { return volume.sizeBytes }, blockSizes: volume.blockSizes, capabilities: volume.capabilities,
      read: (offset, length, into, at) => volume.read(offset, length, into, at),
      zeroRun: (offset, length) => volume.zeroRun(offset, length),
      extents: (offset, length, max) => volume.extents(offset, length, max),
      close: async () => undefined,
      write: (offset, length, from, at) => {
        const data = from.subarray(at, at + length)
        const values = new Map(valuesOf(data, length / SECTOR).map((value, i) => [offset / SECTOR + i, value]))
        return change('write', values, () => volume.write(offset, length, from, at))
      },
      zero: (offset, length, mode) => change('zero', sectors(offset, length, 0), () => volume.zero(offset, length, mode)),
      trim: (offset, length) => change('trim', sectors(offset, length, 0), () => volume.trim(offset, length)),
      flush: async () => {
        const { model } = this.#lab
        const isMine = this.#lab.lives()
        const start = model.tick
        await volume.flush()
        if (isMine() && !model.flushed(start)) throw new Wrong('a flush of an import was answered after one of live had failed')
      },
    }
  }

  /** What the server's imports know of the store. */
  get #store(): Store {
    const lab = this.#lab
    const { volume } = lab
    const device = this.#device
    const known = {
      name: lab.name, problem: undefined, points: volume.points,
      get sizeBytes() { return volume.sizeBytes },
      trim: device.trim.bind(device), restore: (options: RestoreOptions) => this.#restore(options.from, options, true),
    }
    return { list: () => [known], resizeVolume: (_: string, sizeBytes: number) => this.#hands.resizeTo(sizeBytes) } as unknown as Store
  }

  async #identity(stream: Stream): Promise<string> {
    const lab = this.#lab
    const { volume } = lab
    const isMine = lab.lives()
    const { base, target } = stream
    const there = await identityOf(volume, { base: base?.uuid ?? 'empty', target: target.uuid })
    if (!isMine()) return there
    const is = there === target.uuid ? target.values : there === base?.uuid ? base.values : there === 'empty' ? blank(volume.sizeBytes) : undefined
    if (is) this.#is(`the volume is taken to be at ${there}`, is)
    return there
  }

  #is(what: string, values: readonly number[]): void {
    this.#lab.judge(what, values, this.#lab.model.allowed())
    this.#lab.model.found(values, false)
  }

  #source({ bytes }: Stream): Readable {
    const lab = this.#lab
    const step = CHUNK_BYTES[lab.random(CHUNK_BYTES.length)]
    let at = 0
    return new Readable({
      read() {
        lab.machine.at(lab.random(6), () => {
          this.push(at < bytes.length ? bytes.subarray(at, at + step) : null)
          at += step
        })
      },
    })
  }

  /** As daemon-deltas.ts does it. */
  async #guarded(of: Import): Promise<void> {
    const lab = this.#lab
    const isMine = lab.lives()
    const { stream } = of
    const store = this.#store
    let guard: ImportGuard | undefined
    try {
      await applyDelta({
        source: this.#source(stream), target: this.#device, identity: () => this.#identity(stream),
        begin: async ({ base, target }) => {
          const point = lab.volume.points.list().findLast(({ uuid, labels }) => uuid === base || labels[ORIGIN] === base)
          guard = new ImportGuard(store, store.list()[0], point, target)
          of.isBegun = true
          await guard.begin()
        },
        resize: sizeBytes => this.#hands.resizeTo(sizeBytes),
        commit: async () => {
          await this.#commit(stream)
          await guard!.end()
        },
      })
    } catch (error) {
      if (!isMine()) return
      if (guard && error instanceof NbdeltaError) await this.#undo(of, guard)
      throw error
    }
  }

  async #undo(of: Import, guard: ImportGuard): Promise<void> {
    const lab = this.#lab
    const isMine = lab.lives()
    const { stream: { base } } = of
    try {
      await guard.undo()
      if (!isMine()) return
      if (base) this.#is('an import that failed', base.values)
      of.isBegun = false
      lab.count('import undone')
    } catch (error) {
      if (!(error instanceof NbdeltaError)) throw error
      if (isMine()) lab.machine.isHurt = true
    }
  }

  async #unguarded(of: Import): Promise<void> {
    const { stream } = of
    const { position } = of
    await applyDelta({
      source: this.#source(stream), target: this.#device, resume: position,
      identity: () => position ? stream.base?.uuid ?? 'empty' : this.#identity(stream),
      begin: () => { of.isBegun = true },
      onApplied: position => { of.position = position },
      resize: sizeBytes => this.#hands.resizeTo(sizeBytes),
      commit: () => this.#commit(stream),
    })
  }

  /** All of it is there, and stays: the volume is the target. */
  async #commit({ target: { uuid, values } }: Stream): Promise<void> {
    const lab = this.#lab
    const isMine = lab.lives()
    if (!isMine()) return
    this.#is('behind an import', values)
    const name = `i${lab.serial}`
    const { atInstant, done, failed } = this.#points.making(name, 'snapshot')
    try {
      await lab.volume.points.create({ name, kind: 'snapshot', labels: { [ORIGIN]: uuid }, atInstant })
      if (isMine()) done()
    } catch (error) {
      if (isMine()) failed()
      throw error
    }
  }

  /** As the server does when it starts: before anybody is let in. */
  async #opened(): Promise<void> {
    const lab = this.#lab
    this.#isGoing = false
    const of = this.#import
    if (!of?.isBegun) return this.release()
    if (!of.isGuarded) return of.position ? undefined : this.release()
    const isMine = lab.lives()
    this.#points.takeStock('before an import is undone')
    const { points } = lab.volume
    const pinned = points.list().find(({ pins }) => pins.some(({ owner }) => owner.startsWith('delta import ')))
    let isUndone = false
    await this.#perhapsCut(this.#undoAll(() => { isUndone = true }))
    if (!isMine()) return
    if (points.list().some(({ pins }) => pins.some(({ owner }) => owner.startsWith('delta import ')))) throw new Wrong('a base stays pinned')
    if (isUndone) this.#is('an import that was undone', of.stream.base!.values)
    else if (pinned) this.#is('an import that had ended', of.stream.target.values)
    else if (of.stream.base) await this.#isEither(of.stream.base.values, of.stream.target.values)
    lab.count(pinned ? isUndone ? 'import undone when opened' : 'import found ended' : 'import found without a pin')
    this.release()
  }

  /** Where it finds no room within the budget somebody gives it some. */
  async #undoAll(warn: () => void): Promise<void> {
    const lab = this.#lab
    const store = this.#store
    const undo = (): Promise<void> => undoImportsOf(store, store.list()[0], { ...silentLogger, warn, error: warn })
    try {
      await undo()
    } catch (error) {
      if (!isBudgetRefusal(error)) throw error
      lab.count('no room to undo an import')
      await lab.haveSpace(NO_BUDGET)
      await undo()
    }
  }

  /** The server is killed while it brings back a base. */
  async #perhapsCut(work: Promise<void>): Promise<void> {
    const { machine, random } = this.#lab
    if (random(3) > 0) return work
    work.catch(() => undefined)
    const isCut = new Promise<boolean>(resolve => { machine.at(1 + random(60), () => { resolve(true) }) })
    if (await Promise.race([work, isCut])) throw new CutShort(random(2) === 0 ? 'killed' : 'cut')
  }

  /** Nothing was pinned: nothing had been written, or all. */
  async #isEither(...all: (readonly number[])[]): Promise<void> {
    const { volume } = this.#lab
    const into = Buffer.alloc(volume.sizeBytes)
    await volume.read(0, into.length, into, 0)
    const values = valuesOf(into, SECTORS)
    if (!all.some(one => one.every((value, sector) => value === values[sector]))) throw new Wrong('an import is cut short, and no base is pinned')
  }
}

/** What a stream says, by sector. */
function toldBy(bytes: Buffer): Map<number, number> {
  const told = new Map<number, number>()
  const decoder = new DeltaDecoder(sha256)
  const refuse = (what: unknown): never => { throw new Wrong(`a stream is not one: ${JSON.stringify(what)}`) }
  for (const item of decoder.push(bytes)) {
    if (item.kind === 'refused') refuse(item)
    if (item.kind !== 'extent') continue
    const { offset, zeroBytes, data } = item
    for (const [sector, value] of sectors(offset, zeroBytes, 0)) told.set(sector, value)
    for (const [i, value] of valuesOf(data, data.length / SECTOR).entries()) told.set((offset + zeroBytes) / SECTOR + i, value)
  }
  const refusal = decoder.end()
  if (refusal) refuse(refusal)
  return told
}

function blank(sizeBytes: number): number[] { return Array.from({ length: SECTORS }, (_, sector) => sector < sizeBytes / SECTOR ? 0 : GONE) }
