/**
 * SecondaryPoints: declared points of secondaries that are held because all of one is read: for a peer that compares it with what
 * it has sent (`hold`), or for this server's own people (`verify`); and what came of it last.
 *
 * - A held point stays, whatever is declared meanwhile, until it is let go: when its link ends, when IDLE_MS go by without a
 *   question (X5: a peer that hangs cannot fill the store), when the mirror is forgotten or the volume promoted.
 * - For peers one point of each secondary is held at a time: a newer question ends an older one.
 * - What was found is kept in memory only.
 */
import type { GrainBitmap } from '../../native-free/grain-bitmap.js'
import type { Clock, Timer } from '../device/clock.js'
import { NbdeltaError } from '../device/errors.js'
import type { StoreVolume } from '../volume/store-volume.js'
import { type CompareOptions, digestOf } from './compare.js'
import { answerDigest } from './link-digest.js'
import { pageOf } from './link-runs.js'
import type { PeerParams, PeerResult } from './peer-messages.js'
import type { Finding, FrozenContent, HeldPoint } from './target.js'
import type { Verified } from './verifications.js'

const IDLE_MS = 3_600_000

/** Of one volume. */
interface Reader { readonly isPeer: boolean, close(): Promise<void> }

export class SecondaryPoints {
  readonly #clock: Clock
  /** By volume. */
  readonly #readers = new Map<string, Set<Reader>>()
  readonly #found = new Map<string, Verified>()

  constructor(clock: Clock) { this.#clock = clock }

  /** What came of reading all of a point of it last; null: nobody has since the server began. */
  found(volume: string): Verified | null { return this.#found.get(volume) ?? null }

  /** For a peer. @param hangUp ends its link */
  async hold(volume: StoreVolume, point: HeldPoint, hangUp: () => void): Promise<SecondaryPoint> {
    for (const reader of this.#readers.get(volume.uuid) ?? []) if (reader.isPeer) await reader.close()
    const held = new SecondaryPoint(volume, point, this.#clock, {
      onClose: () => {
        this.#readers.get(volume.uuid)?.delete(held)
        hangUp()
      },
      onFound: found => { this.#note(volume.uuid, found) },
    })
    this.#add(volume.uuid, held)
    return held
  }

  /** Reads all of a point. Errors: cancelled, gone (the mirror was forgotten, the volume promoted), no-space, damaged, io. */
  async verify(volume: string, point: FrozenContent, cycle: number | null, options: CompareOptions): Promise<Verified> {
    const reader: Reader = { isPeer: false, close: () => point.close() }
    this.#add(volume, reader)
    try {
      return this.#note(volume, { result: 'read', cycle, digest: await digestOf(point, { ...options, clock: this.#clock }) })
    } finally {
      await point.close()
      this.#readers.get(volume)?.delete(reader)
    }
  }

  /** Nothing of the volume is held any more. */
  async end(volume: string): Promise<void> {
    await Promise.all([...this.#readers.get(volume) ?? []].map(reader => reader.close()))
  }

  #add(volume: string, reader: Reader): void {
    const readers = this.#readers.get(volume) ?? new Set()
    this.#readers.set(volume, readers.add(reader))
  }

  #note(volume: string, found: Finding): Verified {
    const verified = { ...found, at: this.#clock.wallTime().toISOString() }
    this.#found.set(volume, verified)
    return verified
  }
}

/** What a peer may ask of a point that it holds, one question at a time. */
export class SecondaryPoint implements Reader {
  readonly isPeer = true
  readonly #volume: StoreVolume
  readonly #point: HeldPoint
  readonly #clock: Clock
  readonly #on: { onClose(): void, onFound(found: Finding): void }
  #map: GrainBitmap | undefined
  #timer: Timer | undefined
  #closing: Promise<void> | undefined

  constructor(
    volume: StoreVolume, point: HeldPoint, clock: Clock, on: { onClose(): void, onFound(found: Finding): void },
  ) {
    this.#volume = volume
    this.#point = point
    this.#clock = clock
    this.#on = on
    this.#asked()
  }

  facts(): PeerResult<'hold'> { return { sizeBytes: this.#point.sizeBytes, grainBytes: this.#volume.grainBytes } }

  async held({ from, regionBytes }: PeerParams<'held'>): Promise<PeerResult<'held'>> {
    this.#asked()
    if (from === 0) this.#map = await this.#point.held(regionBytes)
    if (!this.#map || from > this.#map.length) throw new NbdeltaError('bad-argument', 'held: ask from the beginning')
    return pageOf(this.#map, from)
  }

  async digest(params: PeerParams<'digest'>): Promise<PeerResult<'digest'>> {
    this.#asked()
    const answer = await answerDigest({ ...this.facts(), digests: (...asked) => this.#point.digests(...asked) }, params)
    this.#asked()
    return answer
  }

  async rooted(root: string): Promise<null> {
    this.#asked()
    await this.#point.rooted?.(root)
    return null
  }

  async found(found: Finding): Promise<null> {
    this.#on.onFound(found)
    return null
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#timer?.cancel()
      await this.#point.close()
      this.#on.onClose()
    })()
    return this.#closing
  }

  #asked(): void {
    this.#timer?.cancel()
    if (!this.#closing) this.#timer = this.#clock.setTimeout(() => { void this.close() }, IDLE_MS)
  }
}
