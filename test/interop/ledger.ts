/**
 * Ledger: writes to a row of places, each sent after the one before was answered, and the memory of every image that this made.
 *
 * Because each write depends on the one before, all images that clients of the source could ever see stand in a row (SEEDS C1, C14).
 * Whatever a mirror's target shows must be one of them, whole, and never an older one than it has shown before. The places lie far
 * apart, so that what ships them may do so in any order.
 */
import { createHash } from 'node:crypto'
import { ConnectionLost, type WireClient } from './wire-client.js'

const PLACES = 128
const PLACE_BYTES = 4096
/** More than what a cycle ships in one piece. */
const STRIDE_BYTES = 512 * 1024
/** Sent as fast as it goes, the same places would be written over and over between two cycles. */
const PAUSE_MS = 1

/** Stamps by place; 0: nothing was written there yet. */
export type Image = Uint32Array

export class Ledger {
  acknowledged = 0
  /** Images judged, and the different ones among them. */
  judged = 0
  readonly #seen = new Set<string>()
  #now: Image = new Uint32Array(PLACES)
  /** What it shows as well, perhaps: the last request was not answered. */
  #perhaps: Image | undefined
  #stamp = 0
  #moment = 0
  /** Moments at which an image was the source's, ascending, by its fingerprint. */
  readonly #moments = new Map<string, number[]>()
  /** That of the image which the target has shown last. */
  #shown = 0
  #stopped = false

  constructor() { this.#enter(this.#now) }

  get different(): number { return this.#seen.size }

  /** As it is now. Nothing is in flight. */
  copy(): Image { return this.#now.slice() }

  /** Goes on until it is stopped or the connection ends. */
  async run(client: WireClient, random: () => number): Promise<void> {
    this.#stopped = false
    while (!this.#stopped) {
      const next = this.#now.slice()
      const place = Math.floor(random() * PLACES)
      next[place] = ++this.#stamp
      if (!await this.#answered(next, client.write(place * STRIDE_BYTES, content(place, next[place]!)))) return
      this.acknowledged++
      await new Promise(resolve => { setTimeout(resolve, PAUSE_MS) })
    }
  }

  stop(): void { this.#stopped = true }

  /** The source becomes an older image at once, by a command that is answered. */
  async become(image: Image, answer: Promise<unknown>): Promise<void> { await this.#answered(image.slice(), answer) }

  /** After a kill: what the source shows is the truth. Answers what is wrong with it, or ''. */
  settle(image: Image): string {
    const perhaps = this.#perhaps
    this.#perhaps = undefined
    if (perhaps && same(image, perhaps)) this.#now = perhaps
    else if (perhaps) this.#moments.get(fingerprint(perhaps))!.pop()
    return same(image, this.#now) ? '' : `the source is not at what was acknowledged last: ${differences(image, this.#now)}`
  }

  /** What the target shows. Answers what is wrong with it, or ''. */
  judge(image: Image): string {
    this.judged++
    const print = fingerprint(image)
    this.#seen.add(print)
    const moments = this.#moments.get(print)
    if (!moments?.length) return `the target shows what the source never did: ${differences(image, this.#now)}`
    const moment = moments.find(one => one >= this.#shown)
    if (moment === undefined) return `the target went back, from moment ${this.#shown} to ${moments.at(-1)}`
    this.#shown = moment
    return ''
  }

  /** Of the target after a cycle that began when nothing was in flight. */
  judgeLatest(image: Image): string {
    return this.judge(image) || (same(image, this.#now) ? '' : `the target is behind: ${differences(image, this.#now)}`)
  }

  #enter(image: Image): void {
    const print = fingerprint(image)
    const moments = this.#moments.get(print) ?? []
    moments.push(++this.#moment)
    this.#moments.set(print, moments)
  }

  async #answered(next: Image, answer: Promise<unknown>): Promise<boolean> {
    this.#enter(next)
    this.#perhaps = next
    try {
      await answer
    } catch (error) {
      if (error instanceof ConnectionLost) return false
      throw error
    }
    this.#perhaps = undefined
    this.#now = next
    return true
  }
}

/** Every place, over one connection. Rejects if one is torn or misplaced. */
export async function readImage(client: WireClient): Promise<Image> {
  const places = await Promise.all(Array.from({ length: PLACES }, (_, place) => client.read(place * STRIDE_BYTES, PLACE_BYTES)))
  return Uint32Array.from(places, (bytes, place) => {
    const stamp = bytes.readUInt32LE(0)
    if (!bytes.equals(content(place, stamp))) throw new Error(`place ${place} is torn: it begins with stamp ${stamp}`)
    return stamp
  })
}

function content(place: number, stamp: number): Buffer {
  const words = new Uint32Array(PLACE_BYTES / 4)
  if (stamp > 0) for (let index = 0; index < words.length; index++) words[index] = stamp + index * (place + 1)
  return Buffer.from(words.buffer)
}

function fingerprint(image: Image): string { return createHash('sha1').update(Buffer.from(image.buffer)).digest('base64') }

function same(a: Image, b: Image): boolean { return a.every((stamp, place) => stamp === b[place]) }

/** Of a few places, for whoever looks into it. */
function differences(image: Image, wanted: Image): string {
  const places = [...image.keys()].filter(place => image[place] !== wanted[place])
  const some = places.slice(0, 8).map(place => `place ${place} has ${image[place]}, now ${wanted[place]}`)
  return `${places.length} places differ from now, newest stamp ${Math.max(...image)} of ${Math.max(...wanted)}: ${some.join('; ')}`
}
