/**
 * Points in a storm: made, deleted, asked, looked at and restored, and what is judged of them: snapshots keep one of the contents
 * of their instant, and from their first look on that one; what differs is among what a point says has changed; only undo points
 * may be given up, and only for want of space.
 */
import { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Kept, PointKind, Snappoints } from '../../src/volume/snappoint.js'
import type { Run } from '../../src/volume/volume-map.js'
import { GRAIN } from './lab.js'
import { IN_GRAIN, type Lab, place, POINTS_EVER, SECTORS, Wrong } from './storm-lab.js'
import { type Allowed, exactly, isSame, type Op, restored, SECTOR, valuesOf } from './storm-model.js'

/** Names there may be at a time. */
const POINTS_MAX = 5
const OWNER = 'the storm'
const LABEL = 'noted'

interface Known {
  readonly kind: PointKind
  /** For want of space. */
  readonly mayGo: boolean
  /** `doubtful`: only the next open tells whether it is there. */
  state: 'making' | 'there' | 'going' | 'doubtful'
  /** What it may be; undefined: its instant has not come. */
  allowed: Allowed | undefined
  /** What a snapshot is. */
  content: number[] | undefined
  /** Of an image: from which grain on it keeps everything, and whether it is of this life, behind which nobody reads it. */
  readonly image?: { readonly from: number, readonly isMine: () => boolean } | undefined
  /** Another may have its name later. */
  uuid?: string | undefined
  /** Whether it is pinned, and what its label says, each any of these. */
  readonly pinned: Set<boolean>
  /** By the clock, in ms; null: it does not expire. */
  pinnedUntil: number | null
  readonly label: Set<string | undefined>
  /** One of them is being changed. */
  isNoted: boolean
  /** Of an import that was undone: it goes by itself. */
  readonly isPassing?: boolean
}

/** Of bytes. */
export interface Range { readonly offset: number, readonly length: number }

/** What instant and answer of something mean that makes a point. */
export interface Making { readonly atInstant: () => void, readonly done: () => void, readonly failed: () => void }

export interface RestoreMaking extends Making {
  readonly whenHeld: () => void
  /** After a crash: it may have been held, and nothing differed. */
  readonly isLeftAlone: () => boolean
  /** After a crash, before anything is judged. */
  readonly found: (isShown: boolean) => void
}

interface Restoring { readonly from: string, readonly isPassing: boolean, range: Range | undefined, op: Op | undefined, undo: Known | undefined }

export class StormPoints {
  readonly #lab: Lab
  readonly #points = new Map<string, Known>()
  #made = 0
  #restoring: Restoring | undefined
  /** Of the last restore, if it has made one. */
  restored: { readonly undo: string, readonly range: Range | undefined } | undefined

  constructor(lab: Lab) { this.#lab = lab }

  get isRestoring(): boolean { return this.#restoring !== undefined }

  create(kind: PointKind): void {
    const lab = this.#lab
    if (!this.hasRoom) return
    const name = `p${this.#made + 1}`
    // As an undo point, or as an image of a mirror's cycle.
    const may = lab.hasBudget && kind === 'snapshot' ? ['keep', 'keep', 'undo', 'spare'][lab.random(4)] : 'keep'
    const options = may === 'undo' ? { labels: { auto: 'undo' } } : may === 'spare' ? { letGo: () => { lab.count('told to let go') } } : {}
    const image = kind === 'bookmark' ? this.image() : undefined
    const { atInstant, done, failed } = this.making(name, kind, { mayGo: may !== 'keep', ...image && { from: image.keeps.from } })
    const what = image ? `create image ${name} since ${image.keeps.since}` : `create ${kind} ${name}`
    lab.fly(what, () => lab.volume.points.create({ name, kind, atInstant, ...options, ...image }), done, failed, ['not-found'])
  }

  /** One that is about to be made: what its instant and its answer mean. @param from of an image */
  making(name: string, kind: PointKind, { mayGo = false, from }: { readonly mayGo?: boolean, readonly from?: number } = {}): Making {
    const lab = this.#lab
    const isMine = lab.lives()
    const known = { ...fresh(kind, mayGo), image: from === undefined ? undefined : { from, isMine } }
    this.#made++
    this.#points.set(name, known)
    return {
      atInstant: () => {
        if (!isMine()) return
        lab.log(`${name}: its instant`)
        known.allowed = lab.model.allowed()
      },
      done: () => {
        known.state = 'there'
        this.#isThere(name, known)
        if (!known.allowed) throw new Wrong(`${name} had no instant`)
      },
      failed: () => {
        if (lab.points.inDoubt && known.allowed) known.state = 'doubtful'
        else this.#points.delete(name)
      },
    }
  }

  /** A snapshot that keeps a part: for all others, and for its marks, as if it were none. */
  image(): { readonly kind: 'snapshot', readonly keeps: Kept } | undefined {
    const { random } = this.#lab
    const since = random(2) === 0 ? this.#one(['snapshot', 'bookmark']) : undefined
    return since === undefined ? undefined : { kind: 'snapshot', keeps: { since, from: random(SECTORS / IN_GRAIN) } }
  }

  /** One that is there. */
  some(kinds: readonly PointKind[]): string | undefined { return this.#one(kinds) }

  /** What it may be. */
  allowedOf(name: string): Allowed {
    const { content, allowed } = this.#points.get(name)!
    return content ? exactly(content) : allowed!
  }

  #one(kinds: readonly PointKind[], states: readonly Known['state'][] = ['there']): string | undefined {
    this.#lookForSacrifices()
    const names = [...this.#points].filter(([, { kind, state }]) => states.includes(state) && kinds.includes(kind)).map(([name]) => name)
    return names[this.#lab.random(names.length)]
  }

  /** What was given up for want of space. */
  #lookForSacrifices(): void {
    for (const [name, known] of [...this.#points]) if (known.state === 'there' && !this.#isThere(name, known)) this.#isGone('meanwhile', name, known)
  }

  #isThere(name: string, known: Known): boolean {
    const uuid = this.#lab.volume.points.get(name)?.uuid
    known.uuid ??= uuid
    return uuid !== undefined && uuid === known.uuid
  }

  #isGone(what: string, name: string, { mayGo, isPassing }: Known): void {
    if (isPassing) {
      this.#lab.stirred()
      this.#points.delete(name)
      return
    }
    const { rules, machine } = this.#lab
    const isAllowed = rules.some(({ order, budgetBytes }) => order === 'drop-undo-then-fail' && (budgetBytes !== null || machine.wasFull))
    if (!mayGo || !isAllowed) throw new Wrong(`${what}: ${name} is gone`)
    this.#lab.count('given up')
    this.#lab.stirred()
    this.#points.delete(name)
  }

  delete(): void {
    const lab = this.#lab
    const name = this.#one(['snapshot', 'bookmark'])
    if (name === undefined) return
    const known = this.#points.get(name)!
    known.state = 'going'
    const wasHeld = this.#isHeld(known)
    lab.fly(`delete ${name}`, () => lab.volume.points.delete(name), () => {
      this.#points.delete(name)
      if (wasHeld && this.#isHeld(known)) throw new Wrong(`${name} was deleted, and is pinned`)
    }, () => {
      if (lab.points.inDoubt) known.state = 'doubtful'
      else if (lab.volume.points.get(name)) known.state = 'there'
      else this.#points.delete(name)
    })
  }

  /** Somebody has it pinned, and for some time yet. */
  #isHeld({ pinned, pinnedUntil, isNoted }: Known): boolean {
    if (isNoted || pinned.has(false)) return false
    return pinnedUntil === null || pinnedUntil > this.#lab.clock.wallTime().getTime()
  }

  ask(): void {
    const lab = this.#lab
    const name = this.#one(['snapshot', 'bookmark'])
    if (name === undefined) return
    const before = this.#points.get(name)!.allowed!
    const differing = [...lab.model.allowed().entries()].filter(([sector, now]) => [...now].every(value => !isSame(before[sector], value)))
    const runs = lab.volume.points.changedRuns(name)
    for (const [sector, now] of differing) this.#judgeMarked(`asked in the midst, since ${name}`, runs, sector, before, [...now])
    const differs = differing.length > 0
    let answer = false
    const begin = async (): Promise<void> => { answer = await lab.volume.points.hasChanged(name) }
    // What was there when it was asked counts; later ones may have put it back.
    lab.fly(`ask ${name}`, begin, () => { if (differs && !answer) throw new Wrong(`${name} says that nothing has changed`) })
  }

  /** Of which it is not known what it is: only then it is restored from. @param wanted by default any */
  lookAtNew(wanted?: string): void {
    const isNew = (name: string, { kind, state, content }: Known): boolean => {
      return kind === 'snapshot' && state === 'there' && !content && (wanted === undefined || name === wanted)
    }
    const name = [...this.#points].find(([name, known]) => isNew(name, known))?.[0]
    if (name !== undefined) this.#lab.fly(`look at ${name}`, () => this.#content(name), () => undefined)
  }

  look(): void {
    const images = this.#images
    const name = images.length > 0 && this.#lab.random(2) === 0 ? images[0] : this.#one(['snapshot'], ['there', 'going'])
    if (name === undefined) return
    this.#lab.fly(`look at ${name}`, () => this.#content(name), () => undefined)
  }

  get #images(): string[] {
    return [...this.#points].filter(([, { image, state }]) => image?.isMine() && (state === 'there' || state === 'going')).map(([name]) => name)
  }

  async #content(name: string): Promise<void> {
    const lab = this.#lab
    const isMine = lab.lives()
    const known = this.#points.get(name)!
    const device: BlockDevice = lab.volume.points.open(name, { image: known.image !== undefined })
    const into = Buffer.alloc(device.sizeBytes)
    // What an image does not keep may be cut off by now.
    const start = Math.min(into.length, (known.image?.from ?? 0) * GRAIN)
    try {
      if (start < into.length) await device.read(start, into.length - start, into, start)
    } finally {
      await device.close()
    }
    if (!isMine()) return
    const values = valuesOf(into, SECTORS)
    if (known.image) {
      const isKept = (sector: number): boolean => sector >= known.image!.from * IN_GRAIN
      lab.judge(name, values, known.allowed!.map((allowed, sector) => isKept(sector) ? allowed : new Set([values[sector]])))
      lab.count('images looked at')
      return
    }
    this.saw(name, values)
  }

  /** All of a snapshot was read. */
  saw(name: string, values: readonly number[]): void {
    this.#lab.judge(name, values, this.allowedOf(name))
    this.#points.get(name)!.content = [...values]
  }

  restore(): void {
    const lab = this.#lab
    const { source, sourceVolume } = lab
    const isForeign = lab.random(4) === 0
    const name = isForeign ? source.names[lab.random(source.names.length)] : this.#one(['snapshot'])
    const content = isForeign ? source.valuesOf(name!) : name === undefined ? undefined : this.#points.get(name)!.content
    if (name === undefined || !content || !this.canBeRestored) return
    const range = this.range()
    const within = isForeign && lab.random(2) === 0 ? all(lab.core.map.grains) : undefined
    const { whenHeld, atInstant, done, failed } = this.restoring(name, content, range)
    const isStill = isForeign ? sameBehind(sourceVolume.points, name) : () => true
    const narrow = (): void => {
      if (!isStill()) throw new NbdeltaError('not-found', 'another one has its name')
      if (within) this.#narrow(within, content)
      whenHeld()
    }
    const options = {
      from: name, ...isForeign ? { sourceVolume, ...within && { within } } : {}, ...range, whenHeld: narrow, atInstant,
      ...lab.random(2) === 0 ? { bytesPerSecond: 2 * GRAIN } : {},
    }
    const what = range ? `restore ${name} ${place(range.offset, range.length)}` : `restore ${name}`
    lab.fly(what, () => lab.volume.restore(options), done, failed, ['bad-argument'])
  }

  /** Of a restore that is being copied, where it is known what was there. */
  cancel(): void {
    const lab = this.#lab
    const { inheriting, inheritor, sizeBytes } = lab.volume
    const { undo, range } = this.restored ?? {}
    if (!inheriting || !inheritor.isRestoring || undo === undefined) return
    this.lookAtNew(undo)
    const content = this.contentOf(undo)
    if (!content || !this.canBeRestored) return
    const { offset, length } = range ?? { offset: 0, length: sizeBytes }
    const { whenHeld, atInstant, done, failed } = this.restoring(undo, content, { offset, length: Math.min(length, sizeBytes - offset) })
    lab.hooks = { whenHeld, atInstant }
    lab.fly(`cancel, from ${undo}`, () => inheriting.cancel(), done, failed, ['bad-argument'])
  }

  /** One more point is not too many, nor a restore. */
  get hasRoom(): boolean { return this.#points.size < POINTS_MAX && this.#made < POINTS_EVER }
  get canBeRestored(): boolean { return !this.#lab.isTaken && this.hasRoomToRestore }
  get hasRoomToRestore(): boolean { return !this.#restoring && this.#made < POINTS_EVER && this.#points.size <= POINTS_MAX }

  /** A restore that is about to be asked for. */
  restoring(from: string, content: readonly number[], range: Range | undefined, isPassing = false): RestoreMaking {
    const lab = this.#lab
    const isMine = lab.lives()
    const restoring: Restoring = this.#restoring = { from, isPassing, range, op: undefined, undo: undefined }
    const askedAt = lab.model.tick
    this.#made++
    return {
      whenHeld: () => {
        if (!isMine()) return
        restoring.range = range ?? { offset: 0, length: lab.volume.sizeBytes }
        restoring.undo = { ...fresh('snapshot', true), isPassing, allowed: lab.model.allowed() }
        restoring.op = lab.model.begin(`restore ${from}`, restored(content, range, lab.volume.sizeBytes))
      },
      atInstant: () => { if (isMine()) lab.model.atOnce(restoring.op!) },
      done: () => {
        // It was left alone, for nothing differed, at some time since it was asked for.
        if (!restoring.op) {
          restoring.op = lab.model.begin(`restore ${from}`, restored(content, range, lab.volume.sizeBytes))
          restoring.op.start = askedAt
        }
        if (restoring.op.state === 'running') lab.model.done(restoring.op)
        this.#foundUndo()
      },
      failed: () => {
        const { inDoubt } = lab.points
        if (restoring.op?.state === 'running') inDoubt ? lab.model.failed(restoring.op) : lab.model.never(restoring.op)
        if (!inDoubt) this.#restoring = undefined
      },
      isLeftAlone: () => {
        const { op, undo } = restoring
        return op?.state === 'failed' && [...op.values].every(([sector, value]) => undo!.allowed![sector].has(value))
      },
      found: isShown => {
        const { op } = restoring
        if (!isShown && op?.state === 'done') throw new Wrong(`restore ${from} was shown, and is not there`)
        if (isShown && !op) throw new Wrong(`restore ${from} is there, and nothing was held`)
        if (op && op.state !== 'done') isShown ? lab.model.done(op) : lab.model.never(op)
      },
    }
  }

  /** What the snapshot surely holds as the volume does is not within it any more, or some of that. */
  #narrow(within: GrainBitmap, content: readonly number[]): void {
    const { model, random } = this.#lab
    const now = model.allowed()
    for (let grain = 0; grain < within.length; grain++) {
      const ends = [grain * IN_GRAIN, (grain + 1) * IN_GRAIN]
      const isEqual = now.slice(...ends).every((values, i) => values.size === 1 && values.has(content[ends[0] + i]))
      if (isEqual && random(4) > 0) within.clear(grain, grain + 1)
    }
  }

  /** Of a restore; undefined: all. */
  range(): Range | undefined {
    const { random, volume } = this.#lab
    if (random(3) > 0) return undefined
    const first = random(volume.sizeBytes / SECTOR)
    return { offset: first * SECTOR, length: (1 + random(volume.sizeBytes / SECTOR - first)) * SECTOR }
  }

  /** Its name is the volume's choice: that of one which was given up while its deletion waited, perhaps. */
  #foundUndo(): void {
    const { undo, range, isPassing } = this.#restoring!
    this.#lookForSacrifices()
    const name = this.undoIn(this.#lab.volume.points.list())
    this.#restoring = undefined
    this.restored = name === undefined || isPassing ? undefined : { undo: name, range }
    if (name === undefined) return
    if (!undo) throw new Wrong(`${name} had no instant`)
    undo.state = 'there'
    this.#points.set(name, undo)
    this.#isThere(name, undo)
  }

  /** Name of the one that the restore which is on its way has made, if it is among these. */
  undoIn(infos: readonly { readonly name: string, readonly uuid: string }[]): string | undefined {
    const { from } = this.#restoring!
    return infos.find(({ name, uuid }) => name.startsWith(`undo-${from}-`) && this.#points.get(name)?.uuid !== uuid)?.name
  }

  /** What a snapshot is, if that is known. */
  contentOf(name: string): readonly number[] | undefined {
    const known = this.#points.get(name)
    return known?.state === 'there' && known.kind === 'snapshot' ? known.content : undefined
  }

  /** Those of which it is known. */
  get snapshots(): string[] { return [...this.#points.keys()].filter(name => this.contentOf(name)) }

  /** Nothing is in flight. */
  async judge(what: string, now: readonly number[]): Promise<void> {
    const lab = this.#lab
    const { points } = lab.volume
    this.#lookForSacrifices()
    const there = [...this.#points].filter(([, { state, isPassing }]) => state === 'there' && !isPassing)
    for (const [name, known] of there) {
      const { kind, image } = known
      this.#judgeInfo(what, name, known)
      if (kind === 'snapshot' || image?.isMine()) await lab.answered(`${what}: read ${name}`, this.#content(name))
    }
    for (const [i, [since, { allowed, content }]] of there.entries()) {
      const before = content ? exactly(content) : allowed!
      this.#judgeMarks(`${what}, since ${since}`, since, undefined, before, now)
      for (const [until, later] of there.slice(i + 1)) {
        const isLater = points.get(until)!.seq > points.get(since)!.seq
        if (later.content && isLater) this.#judgeMarks(`${what}, from ${since} to ${until}`, since, until, before, later.content)
      }
    }
  }

  #judgeMarks(what: string, since: string, until: string | undefined, before: Allowed, after: readonly number[]): void {
    this.judgeRuns(what, this.#lab.volume.points.changedRuns(since, until), before, after)
  }

  judgeRuns(what: string, runs: readonly Run[], before: Allowed, after: readonly number[]): void {
    for (const [sector, value] of after.entries()) {
      if (!isSame(before[sector], value)) this.#judgeMarked(what, runs, sector, before, [value])
    }
  }

  #judgeMarked(what: string, runs: readonly Run[], sector: number, before: Allowed, now: readonly number[]): void {
    const grain = Math.floor(sector / IN_GRAIN)
    if (runs.some(({ start, end }) => start <= grain && grain < end)) return
    throw new Wrong(`${what}: grain ${grain} is not marked, was ${[...before[sector]].join(' ')}, is ${now.join(' ')}`)
  }

  /** Pins and labels come and go. */
  note(): void {
    const lab = this.#lab
    const name = this.#one(['snapshot', 'bookmark'])
    if (name === undefined) return
    const known = this.#points.get(name)!
    if (known.isNoted) return
    const { points } = lab.volume
    if (lab.random(2) === 0) {
      const value = lab.random(3) === 0 ? undefined : `l${lab.serial}`
      this.#put(`label ${name} ${value}`, () => points.label(name, LABEL, value ?? null), known, known.label, value)
    } else if (known.pinned.has(true)) this.#put(`unpin ${name}`, () => points.unpin(name, OWNER), known, known.pinned, false)
    else {
      const until = lab.random(2) === 0 ? null : lab.clock.wallTime().getTime() + [20, 1000, 30_000][lab.random(3)]
      known.pinnedUntil = until
      const expiresAt = until === null ? null : new Date(until).toISOString()
      this.#put(`pin ${name} until ${expiresAt}`, () => points.pin(name, { owner: OWNER, expiresAt }), known, known.pinned, true)
    }
  }

  #put<T>(what: string, put: () => Promise<void>, known: Known, may: Set<T>, value: T): void {
    known.isNoted = true
    may.add(value)
    const over = (): void => { known.isNoted = false }
    this.#lab.fly(what, put, () => {
      over()
      may.clear()
      may.add(value)
    }, over)
  }

  #judgeInfo(what: string, name: string, known: Known): void {
    const { pinned, label } = known
    known.isNoted = false
    const info = this.#lab.volume.points.get(name)!
    const isPinned = info.pins.some(({ owner }) => owner === OWNER)
    if (!pinned.has(isPinned)) throw new Wrong(`${what}: ${name} is ${isPinned ? '' : 'not '}pinned`)
    if (!label.has(info.labels[LABEL])) throw new Wrong(`${what}: ${name} has label ${info.labels[LABEL]}, not one of ${[...label].join(' ')}`)
    for (const [may, is] of [[pinned, isPinned], [label, info.labels[LABEL]]] as const) {
      may.clear()
      may.add(is as never)
    }
  }

  /** After it was opened: who is there. */
  takeStock(what: string): void {
    const names = this.#lab.volume.points.list().map(({ name }) => name)
    for (const [name, known] of [...this.#points]) {
      if (this.#isThere(name, known)) {
        if (!known.allowed) throw new Wrong(`${what}: ${name} had no instant`)
        known.state = 'there'
      } else if (known.state === 'there') this.#isGone(what, name, known)
      else this.#points.delete(name)
    }
    if (this.#restoring) this.#foundUndo()
    for (const name of names) if (!this.#points.has(name)) throw new Wrong(`${what}: ${name} is there`)
  }
}

/** An undo point's name may be another one's when it is looked for; when it was found it is pinned. */
function sameBehind(points: Pick<Snappoints, 'get'>, name: string): () => boolean {
  const uuid = points.get(name)?.uuid
  return () => uuid !== undefined && points.get(name)?.uuid === uuid
}

function fresh(kind: PointKind, mayGo: boolean): Known {
  return { kind, mayGo, state: 'making', allowed: undefined, content: undefined, pinned: new Set([false]), pinnedUntil: 0, label: new Set([undefined]), isNoted: false }
}

function all(grains: number): GrainBitmap {
  const map = new GrainBitmap(grains)
  map.set(0, grains)
  return map
}
