/**
 * ChaosContent: what a volume, or a snapshot of it, may read as, sector by sector, named by the serials of the writes that put it there.
 *
 * A sector has one serial (0: zeros), or several while something is in doubt: a request that was not answered, or one that is in flight.
 * Followers are contents of an instant that is not known exactly: of a snapshot that is being taken, or of a mirror's target. Whatever the
 * sectors hold from the moment on in which one follows may be in it. Reading settles a doubt.
 *
 * Each sector carries its own place and serial, so that what is stale, misplaced, torn or another volume's is told from what is right.
 */
export const SECTOR = 512
const WORDS = SECTOR / 4

/** Of the whole program: no two writes have the same, whichever volumes they go to. */
let serials = 0
export function newSerial(): number { return ++serials }

/** `count` sectors from `from` on, as the write of this serial leaves them. */
export function sectorBytes(serial: number, from: number, count: number): Buffer {
  const words = new Uint32Array(count * WORDS)
  if (serial === 0) return Buffer.from(words.buffer)
  for (let sector = 0; sector < count; sector++) {
    const base = sector * WORDS
    words[base] = serial
    for (let index = 1; index < WORDS; index++) words[base + index] = Math.imul(serial, 2654435761) + Math.imul(from + sector, 40503) + index
  }
  return Buffer.from(words.buffer)
}

/** The serial of each sector; -1: it is none that any write has left there. */
export function serialsOf(bytes: Buffer, from = 0): Int32Array {
  const words = new Uint32Array(new Uint8Array(bytes).buffer)
  return Int32Array.from({ length: words.length / WORDS }, (_, sector) => {
    const base = sector * WORDS
    const serial = words[base]!
    const first = Math.imul(serial, 2654435761) + Math.imul(from + sector, 40503)
    for (let index = 1; index < WORDS; index++) {
      if (words[base + index] !== (serial === 0 ? 0 : (first + index) >>> 0)) return -1
    }
    return serial
  })
}

export class ChaosContent {
  #truth: Int32Array
  readonly #doubts = new Map<number, Set<number>>()
  readonly #followers = new Set<ChaosContent>()
  /** The whole content may as well be one of these: a command was not answered. */
  #instead: ChaosContent[] = []
  /** Of a follower whose leader was resized: any that it may have. */
  #sizes: Set<number>

  constructor(sectors: number) {
    this.#truth = new Int32Array(sectors)
    this.#sizes = new Set([sectors])
  }

  /** The largest it may have. */
  get sectors(): number { return this.#truth.length }
  get isSized(): boolean { return this.#sizes.size === 1 }
  get isCertain(): boolean { return this.#doubts.size === 0 && this.#instead.length === 0 && this.isSized }
  mayHave(sectors: number): boolean { return this.#sizes.has(sectors) }

  copy(): ChaosContent {
    const copy = new ChaosContent(0)
    copy.#truth = this.#truth.slice()
    copy.#sizes = new Set(this.#sizes)
    for (const [sector, values] of this.#doubts) copy.#doubts.set(sector, new Set(values))
    copy.#instead = this.#instead.map(one => one.copy())
    return copy
  }

  /** A content of an instant from now on, until `unfollow`. */
  follow(): ChaosContent {
    const follower = this.copy()
    this.#followers.add(follower)
    return follower
  }

  unfollow(follower: ChaosContent): void { this.#followers.delete(follower) }

  /** A follower of something else may be of an instant of this one as well, from now on. */
  lead(follower: ChaosContent): void {
    follower.blur(this)
    this.#followers.add(follower)
  }

  /** These sectors may have this serial as well. Answers those that could not before. */
  perhaps(from: number, count: number, serial: number): number[] {
    const fresh: number[] = []
    for (let sector = from; sector < Math.min(from + count, this.sectors); sector++) if (this.#perhaps(sector, serial)) fresh.push(sector)
    for (const one of [...this.#followers, ...this.#instead]) one.perhaps(from, count, serial)
    return fresh
  }

  /** They have this one and no other. Followers keep what they may have had. */
  put(from: number, count: number, serial: number): void {
    this.#truth.fill(serial, from, from + count)
    for (let sector = from; sector < from + count; sector++) this.#doubts.delete(sector)
    for (const one of this.#followers) one.perhaps(from, count, serial)
    for (const one of this.#instead) one.put(from, count, serial)
  }

  /** What was sent has been refused: it has changed nothing. `sectors`: what `perhaps` answered. */
  refused(sectors: readonly number[], serial: number): void {
    for (const sector of sectors) {
      const values = this.#doubts.get(sector)
      values?.delete(serial)
      if (values?.size === 1) this.#settle(sector, [...values][0]!)
    }
  }

  /** From now on it holds what that one does, in a range of it or all. */
  become(other: ChaosContent, from = 0, count = this.sectors - from): void {
    for (let sector = from; sector < from + count; sector++) {
      const values = sector < other.sectors ? other.#values(sector) : [0]
      this.#truth[sector] = values[0]!
      if (values.length > 1) this.#doubts.set(sector, new Set(values))
      else this.#doubts.delete(sector)
      for (const one of this.#followers) for (const value of values) one.#perhaps(sector, value)
    }
    this.#instead = from === 0 && count === this.sectors ? other.#instead.map(one => one.copy()) : this.#instead
  }

  /** It holds what it did, or all of what that one does. */
  mayBecome(other: ChaosContent): void {
    const copy = other.copy()
    copy.resize(this.sectors)
    this.#instead.push(copy)
    for (const follower of this.#followers) follower.blur(other)
  }

  /** Each sector may hold what that one's may. */
  blur(other: ChaosContent): void {
    for (let sector = 0; sector < this.sectors; sector++) {
      for (const value of sector < other.sectors ? other.#values(sector) : [0]) this.#perhaps(sector, value)
    }
    for (const instead of other.#instead) this.blur(instead)
  }

  resize(sectors: number): void {
    const before = this.#truth
    this.#truth = new Int32Array(sectors)
    this.#truth.set(before.subarray(0, sectors))
    this.#sizes = new Set([sectors])
    for (const sector of this.#doubts.keys()) if (sector >= sectors) this.#doubts.delete(sector)
    for (const one of this.#instead) one.resize(sectors)
    for (const one of this.#followers) one.stretch(before.length, sectors)
  }

  /** Of a follower: it may have the new size as well, and what has been grown is zeros, or what it was before it was cut off. */
  stretch(from: number, sectors: number): void {
    const sizes = [...this.#sizes, sectors]
    if (sectors > this.sectors) this.resize(sectors)
    if (sectors > from) this.perhaps(from, sectors - from, 0)
    this.#sizes = new Set(sizes)
  }

  /** What was read, whole, when nothing is in flight. Answers what is wrong with it, or ''. Settles doubts if `settle`. */
  judge(found: Int32Array, settle: boolean): string {
    const wrong = this.#differs(found)
    const fitting = wrong === '' ? this : this.#instead.find(one => one.#differs(found) === '')
    if (!fitting) return `${wrong}${this.#instead.length > 0 ? `, or ${this.#instead[0]!.#differs(found)}` : ''}`
    if (settle) {
      this.#truth = found.slice()
      this.#sizes = new Set([found.length])
      this.#doubts.clear()
      this.#instead = []
    }
    return ''
  }

  /** Likewise of some sectors from `from` on; settles nothing. */
  judgePart(bytes: Buffer, from: number): string {
    const found = serialsOf(bytes, from)
    const at = found.findIndex((serial, index) => !this.#values(from + index).includes(serial) && !this.#instead.some(one => one.#values(from + index).includes(serial)))
    return at < 0 ? '' : `sector ${from + at} has ${found[at]}, not ${this.#values(from + at).join(' or ')}`
  }

  /** Sectors that certainly differ. */
  differences(other: ChaosContent): number[] {
    const common = Math.min(this.sectors, other.sectors)
    return Array.from({ length: common }, (_, sector) => sector)
      .filter(sector => !this.#values(sector).some(value => other.#values(sector).includes(value)))
  }

  #differs(found: Int32Array): string {
    if (!this.mayHave(found.length)) return `it has ${found.length} sectors, not ${[...this.#sizes].join(' or ')}`
    const bad: string[] = []
    let count = 0
    for (let sector = 0; sector < found.length; sector++) {
      if (found[sector] === this.#truth[sector] || this.#doubts.get(sector)?.has(found[sector]!)) continue
      if (count++ < 6) bad.push(`sector ${sector} has ${found[sector] === -1 ? 'nothing that was ever written' : found[sector]}, not ${this.#values(sector).join(' or ')}`)
    }
    return count === 0 ? '' : `${count} sectors differ: ${bad.join('; ')}`
  }

  #values(sector: number): number[] { return [...this.#doubts.get(sector) ?? [this.#truth[sector]!]] }

  #perhaps(sector: number, serial: number): boolean {
    const values = this.#doubts.get(sector)
    if (values ? values.has(serial) : this.#truth[sector] === serial) return false
    if (values) values.add(serial)
    else this.#doubts.set(sector, new Set([this.#truth[sector]!, serial]))
    return true
  }

  #settle(sector: number, serial: number): void {
    this.#truth[sector] = serial
    this.#doubts.delete(sector)
  }
}
