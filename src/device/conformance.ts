/**
 * The suite every BlockDevice must pass: each promise of block-device.ts as a check, and a seeded run of random
 * requests against a plain array.
 *
 *     import t from 'tap'
 *     t.test('memory disk', t => blockDeviceConformance(t, 'memory', async size => new MemoryDisk(size), { knowsZeros: true }))
 *
 * `assert` is anything with `equal` (tap's t, node:assert). One assertion a check; its message names device, check
 * and seed. Each check gets a fresh device, which must read as zeros, and closes it.
 */
import { type BlockDevice, type Pending, STATE_HOLE, STATE_ZERO, type ZeroMode } from './block-device.js'
import { isZero } from '../../native-free/zero-scan.js'
import { NbdeltaError } from './errors.js'
import { seededRandom } from './random.js'

export interface ConformanceAssert {
  equal(found: unknown, wanted: unknown, message: string): unknown
}

export interface Supports {
  /** Knows of fresh and of zeroed ranges that they are zeros: `zeroRun` and `extents` must say so. */
  readonly knowsZeros?: boolean
  /** Overlapping writes in flight take effect in order of arrival. */
  readonly ordersOverlaps?: boolean
  /** Seed of the random runs; default 1. */
  readonly seed?: number
  /** Random requests per run; default 1,500. */
  readonly requests?: number
  /** Device size for the checks, at least 2 MiB and a whole number of 64 KiB; default 3 MiB. */
  readonly sizeBytes?: number
}

export type DeviceFactory = (sizeBytes: number) => Promise<BlockDevice>
type Check = (lab: Lab) => Promise<void>
const SLOW: ZeroMode = { allocate: false, fast: false }
const KIB = 1024
const MIB = 1024 * KIB

/** Runs every check; resolves when all are done, failed or not. */
export async function blockDeviceConformance(
  assert: ConformanceAssert, name: string, factory: DeviceFactory, supports: Supports = {},
): Promise<void> {
  const seed = supports.seed ?? 1
  for (const [title, check] of CHECKS) {
    let problem = 'none'
    try {
      const lab = new Lab(await factory(supports.sizeBytes ?? 3 * MIB), supports, seed)
      await check(lab)
      await lab.device.close()
    } catch (error) {
      problem = error instanceof Error ? error.stack ?? error.message : String(error)
    }
    assert.equal(problem, 'none', `${name}: ${title} (seed ${seed})`)
  }
}

/** A device beside the plain array it must equal. */
class Lab {
  readonly size: number
  readonly model: Buffer
  /** Smallest step of offsets and lengths. */
  readonly unit: number

  constructor(readonly device: BlockDevice, readonly supports: Supports, readonly seed: number) {
    this.size = device.sizeBytes
    this.model = Buffer.alloc(this.size)
    this.unit = device.blockSizes.minimum
  }

  align(bytes: number): number { return Math.floor(bytes / this.unit) * this.unit }

  async write(offset: number, data: Buffer): Promise<void> {
    await this.device.write(offset, data.length, data, 0)
    data.copy(this.model, offset)
  }

  async zero(offset: number, length: number, mode = SLOW): Promise<void> {
    await this.device.zero(offset, length, mode)
    this.model.fill(0, offset, offset + length)
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const into = Buffer.alloc(length, 0xee)
    await this.device.read(offset, length, into, 0)
    return into
  }

  async same(offset: number, length: number, why: string): Promise<void> {
    const found = await this.read(offset, length)
    const wanted = this.model.subarray(offset, offset + length)
    if (found.equals(wanted)) return
    const at = found.findIndex((byte, i) => byte !== wanted[i])
    throw new Error(`${why}: byte ${offset + at} is ${found[at]}, not ${wanted[at]} (in a read of [${offset}, +${length}))`)
  }

  /** The whole device, in requests of 64 KiB. */
  async sameEverywhere(why: string): Promise<void> {
    for (let at = 0; at < this.size; at += 64 * KIB) await this.same(at, Math.min(64 * KIB, this.size - at), why)
  }
}

function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what)
}

/** Runs what may throw or reject. */
async function outcome(run: () => Pending | Promise<unknown>): Promise<unknown> {
  try {
    await run()
    return undefined
  } catch (error) {
    return error
  }
}

/** Bytes that look random, none of them zero. */
function pattern(seed: number, length: number): Buffer {
  const random = seededRandom(seed)
  const data = Buffer.alloc(Math.ceil(length / 4) * 4)
  for (let i = 0; i < data.length; i += 4) data.writeUInt32LE((random(2 ** 32) | 0x01010101) >>> 0, i)
  return data.subarray(0, length)
}

async function describesItself({ device, size }: Lab): Promise<void> {
  must(Number.isSafeInteger(size) && size > 0, `size ${size}`)
  const { minimum, preferred, maximum } = device.blockSizes
  for (const unit of [minimum, preferred]) must(unit >= 1 && Number.isInteger(Math.log2(unit)), `${unit} is a power of two`)
  must(minimum <= preferred && preferred >= 512 && preferred <= maximum && maximum % minimum === 0, 'block sizes in order')
  for (const flag of Object.values(device.capabilities)) must(typeof flag === 'boolean', 'capabilities are booleans')
}

async function readsZerosWhenFresh(lab: Lab): Promise<void> { await lab.sameEverywhere('a fresh device') }

async function keepsToTheRange(lab: Lab): Promise<void> {
  const { device, unit } = lab
  const length = Math.max(unit, 777 - 777 % unit)
  const from = pattern(1, length + 20)
  await device.write(unit * 5, length, from, 10)
  from.copy(lab.model, unit * 5, 10, 10 + length)
  from.fill(0)
  await lab.same(0, lab.align(64 * KIB), 'only the range was written, from the right place, and the buffer is ours again')
  const into = Buffer.alloc(length + 20, 0xee)
  await device.read(unit * 5, length, into, 10)
  const outside = Buffer.concat([into.subarray(0, 10), into.subarray(10 + length)])
  must(outside.every(byte => byte === 0xee), 'a read fills its part only')
}

async function anyAlignment(lab: Lab): Promise<void> {
  let serial = 0
  const places = [0, 1, 511, 512, 513, 4095, 4096, 4097, MIB - 513, MIB - 1, MIB]
  const lengths = [1, 511, 512, 513, 4095, 4096, 4097, 12289, 65537]
  for (const place of new Set(places.map(bytes => lab.align(bytes)))) {
    for (const length of new Set(lengths.map(bytes => lab.align(bytes)).filter(Boolean))) {
      await lab.write(place, pattern(++serial, length))
      const from = Math.max(0, place - lab.align(1024))
      await lab.same(from, place - from + length + lab.align(8192), `write [${place}, +${length})`)
    }
  }
  await lab.sameEverywhere('after all alignments')
}

async function worksAtItsEnds(lab: Lab): Promise<void> {
  const { size, unit, device } = lab
  await lab.write(size - unit, pattern(1, unit))
  await lab.write(0, pattern(2, unit))
  await lab.same(size - unit, unit, 'the last unit')
  const whole = Math.min(size, device.blockSizes.maximum)
  await lab.write(size - whole, pattern(3, whole))
  await lab.same(size - whole, whole, 'as much as one request may carry')
  await lab.zero(size - unit, unit)
  await lab.sameEverywhere('after the last unit was zeroed')
}

async function assertsTheRange({ device, size, unit }: Lab): Promise<void> {
  const buffer = Buffer.alloc(unit * 4)
  for (const [offset, length] of [[size, unit], [size - unit, unit * 2], [-unit, unit], [0, 0], [NaN, unit]]) {
    const tries: (() => Pending | Promise<unknown>)[] = [
      () => device.read(offset, length, buffer, 0), () => device.write(offset, length, buffer, 0),
      () => device.zero(offset, length, SLOW), () => device.trim(offset, length),
    ]
    for (const attempt of tries) {
      const error = await outcome(attempt)
      const crashes = error instanceof Error && !(error instanceof NbdeltaError)
      must(crashes, `[${offset}, +${length}) breaks the contract and must throw, got ${error}`)
    }
  }
}

async function runsManyAtOnce(lab: Lab): Promise<void> {
  const length = 16 * KIB
  const data = Array.from({ length: Math.min(160, Math.floor(lab.size / length)) }, (_, i) => pattern(i, length))
  await Promise.all(data.map((piece, i) => lab.write(i * length, piece)))
  const found = await Promise.all(data.map((_, i) => lab.read(i * length, length)))
  found.forEach((piece, i) => must(piece.equals(data[i]), `piece ${i} of many in flight`))
}

/** Whatever the order, a sector is one of the two; with `ordersOverlaps` it is the later one's. */
async function overlapsInFlight(lab: Lab): Promise<void> {
  const { device, supports } = lab
  for (let round = 0; round < 40; round++) {
    const buffers = Array.from({ length: 6 }, (_, i) => Buffer.alloc(8 * KIB, round * 6 + i + 1))
    const places = buffers.map((_, i) => i * 2 * KIB)
    await Promise.all(buffers.map((buffer, i) => device.write(places[i], buffer.length, buffer, 0)))
    const found = await lab.read(0, 18 * KIB)
    for (let sector = 0; sector < found.length; sector += 512) {
      const candidates = buffers.filter((_, i) => sector >= places[i] && sector < places[i] + 8 * KIB).map(buffer => buffer[0])
      const allowed = supports.ordersOverlaps ? candidates.slice(-1) : candidates
      const value = found[sector]
      must(allowed.includes(value), `sector at ${sector} holds ${value}, not one of ${allowed.join()}`)
      must(found.subarray(sector, sector + 512).equals(Buffer.alloc(512, value)), `sector at ${sector} is mixed`)
    }
  }
}

async function zeroesExactly(lab: Lab): Promise<void> {
  for (const allocate of [false, true]) {
    for (const [place, length] of [[0, 4096], [513, 70_000], [65_536, MIB], [4097, 4095], [MIB - 100, 200_000], [8192, 1]]) {
      const offset = lab.align(place)
      const bytes = Math.max(lab.unit, lab.align(length))
      await lab.write(0, pattern(length, lab.align(1.5 * MIB)))
      await lab.zero(offset, bytes, { allocate, fast: false })
      await lab.same(0, lab.align(1.5 * MIB), `zero [${offset}, +${bytes}) allocate ${allocate}`)
    }
  }
  await lab.write(0, pattern(9, 64 * KIB))
  await lab.sameEverywhere('a zeroed range can be written again')
}

async function zeroesFastOrNotAtAll(lab: Lab): Promise<void> {
  const { device } = lab
  for (const [allocate, place, length] of [[false, 0, MIB], [true, 64 * KIB, MIB], [false, 100, 5000]] as const) {
    await lab.write(0, pattern(length, lab.align(1.5 * MIB)))
    const offset = lab.align(place)
    const bytes = lab.align(length)
    const error = await outcome(() => device.zero(offset, bytes, { allocate, fast: true }))
    if (error === undefined) lab.model.fill(0, offset, offset + bytes)
    else must(error instanceof NbdeltaError && error.code === 'not-fast', `fast zero: ${error}`)
    if (place === 0) must(error === undefined || !device.capabilities.fastZero, 'who promises fast zeros can do 1 MiB of them')
    await lab.same(0, lab.align(1.5 * MIB), 'fast zero: done or untouched')
  }
}

async function trimsInsideTheRange(lab: Lab): Promise<void> {
  const { device } = lab
  for (const [place, length] of [[0, 4096], [100, 9000], [64 * KIB, MIB], [MIB - 5000, 5000]]) {
    const offset = lab.align(place)
    const bytes = lab.align(length)
    await lab.write(0, pattern(place + 1, lab.align(1.5 * MIB)))
    await device.trim(offset, bytes)
    const first = await lab.read(offset, bytes)
    must(first.equals(await lab.read(offset, bytes)), 'what was trimmed reads the same twice')
    first.copy(lab.model, offset)
    await lab.same(0, lab.align(1.5 * MIB), `trim [${offset}, +${bytes}) left the rest alone`)
  }
  await lab.write(0, pattern(5, 64 * KIB))
  await lab.sameEverywhere('a trimmed range can be written again')
}

async function flushes(lab: Lab): Promise<void> {
  await lab.device.flush()
  await lab.write(0, pattern(1, 64 * KIB))
  await Promise.all([lab.device.flush(), lab.device.flush(), lab.write(64 * KIB, pattern(2, 4096)), lab.device.flush()])
  await lab.device.flush()
  await lab.sameEverywhere('after flushes')
}

async function prefetches(lab: Lab): Promise<void> {
  await lab.write(4096, pattern(1, 64 * KIB))
  await lab.device.prefetch?.(0, lab.size)
  await lab.device.prefetch?.(lab.size - lab.unit, lab.unit)
  await lab.sameEverywhere('after prefetch')
}

/** Extents and zero runs speak of the same content as reads, at any place. */
async function mapAgreesWithContent(lab: Lab): Promise<void> {
  const { device, size } = lab
  const bounds = [0, lab.align(5000), 8192, 64 * KIB, MIB - 4096, MIB, lab.align(MIB + 777), size - lab.unit]
  for (const offset of bounds) {
    for (const length of [lab.unit, 4096, 100_000, size].map(bytes => Math.min(lab.align(bytes) || lab.unit, size - offset))) {
      for (const most of [1, 2, 1000]) await extentsAgree(lab, offset, length, most)
      const run = device.zeroRun(offset, length)
      const bytes = Math.abs(run)
      must(Number.isInteger(run) && bytes >= 1 && bytes <= length, `zeroRun(${offset}, ${length}) = ${run}`)
      if (run < 0) must(isZero(lab.model, offset, bytes), `zeroRun(${offset}, ${length}) = ${run}, but there is data`)
    }
  }
}

async function extentsAgree({ device, model }: Lab, offset: number, length: number, most: number): Promise<void> {
  const { lengths, states } = await device.extents(offset, length, most)
  const what = `extents(${offset}, ${length}, ${most})`
  must(lengths.length >= 1 && lengths.length <= most && states.length === lengths.length, `${what}: ${lengths.length} of them`)
  must(lengths.every(bytes => Number.isInteger(bytes) && bytes >= 1), `${what}: lengths ${lengths.join()}`)
  must(lengths.reduce((sum, bytes) => sum + bytes, 0) <= length, `${what}: more than asked`)
  must(states.every((state, i) => i === 0 || state !== states[i - 1]), `${what}: neighbours are merged`)
  let at = offset
  states.forEach((state, i) => {
    if (state & STATE_ZERO) must(isZero(model, at, lengths[i]), `${what}: data at ${at} is called zeros`)
    at += lengths[i]
  })
}

async function mapFollowsChanges(lab: Lab): Promise<void> {
  const { device, supports } = lab
  await mapAgreesWithContent(lab)
  if (supports.knowsZeros) must(device.zeroRun(0, MIB) === -MIB, 'a fresh range is known to be zeros')
  await lab.write(64 * KIB, pattern(1, 128 * KIB))
  await lab.write(MIB, pattern(2, lab.unit))
  must(device.zeroRun(64 * KIB, 128 * KIB) > 0, 'written data is not called zeros')
  await mapAgreesWithContent(lab)
  await lab.zero(64 * KIB, 64 * KIB)
  await mapAgreesWithContent(lab)
  if (supports.knowsZeros) {
    await lab.zero(64 * KIB, 128 * KIB)
    must(device.zeroRun(64 * KIB, 128 * KIB) === -128 * KIB, 'a zeroed range is known to be zeros')
  }
  await lab.write(0, pattern(3, 64 * KIB))
  await lab.zero(0, 64 * KIB, { allocate: true, fast: false })
  const kept = await device.extents(0, 64 * KIB, 1000)
  must(kept.states.every(state => (state & STATE_HOLE) === 0), 'what was zeroed with allocate is no hole')
  await mapAgreesWithContent(lab)
}

/** Batches of requests on ranges that do not meet, then a comparison of everything. */
async function randomRequests(lab: Lab): Promise<void> {
  const random = seededRandom(lab.seed)
  const { device, size } = lab
  const requests = lab.supports.requests ?? 1500
  for (let done = 0; done < requests;) {
    const pending: Promise<void>[] = []
    let at = 0
    while (at < size && pending.length < 24) {
      const offset = lab.align(at + random(size / 8))
      const length = Math.max(lab.unit, lab.align(1 + random(random(4) === 0 ? 200_000 : 6000)))
      if (offset + length > size) break
      at = offset + length
      const dice = random(10)
      if (dice < 4) pending.push(lab.write(offset, pattern(random(1e9), length)))
      else if (dice < 5) pending.push(lab.zero(offset, length, { allocate: random(2) === 0, fast: false }))
      else if (dice < 6) pending.push(trimAndLook(lab, offset, length))
      else if (dice < 7) pending.push(Promise.resolve(device.flush()))
      else pending.push(lab.same(offset, length, `request ${done + pending.length}`))
    }
    await Promise.all(pending)
    done += pending.length + 1
    if (random(10) === 0) await mapAgreesWithContent(lab)
  }
  await lab.sameEverywhere('at the end')
}

async function trimAndLook(lab: Lab, offset: number, length: number): Promise<void> {
  await lab.device.trim(offset, length)
  const found = await lab.read(offset, length)
  found.copy(lab.model, offset)
}

async function closesOnce({ device, unit }: Lab): Promise<void> {
  const data = pattern(1, Math.max(unit, 4096))
  const inFlight = outcome(() => device.write(0, data.length, data, 0))
  await Promise.all([device.close(), device.close()])
  must(await inFlight === undefined, 'close finishes what runs')
  await device.close()
  for (const attempt of [() => device.read(0, unit, data, 0), () => device.write(0, unit, data, 0), () => device.flush()]) {
    must(await outcome(attempt) instanceof Error, 'a closed device refuses')
  }
}

const CHECKS: readonly [string, Check][] = [
  ['describes itself', describesItself],
  ['reads as zeros when fresh', readsZerosWhenFresh],
  ['keeps to the range and to the buffer\'s part', keepsToTheRange],
  ['takes any alignment', anyAlignment],
  ['works at its ends', worksAtItsEnds],
  ['asserts the range', assertsTheRange],
  ['runs many requests at once', runsManyAtOnce],
  ['overlapping writes in flight', overlapsInFlight],
  ['W1: zeroes exactly', zeroesExactly],
  ['zeroes fast or leaves the content alone', zeroesFastOrNotAtAll],
  ['trims inside the range', trimsInsideTheRange],
  ['flushes, together and again', flushes],
  ['prefetch changes nothing', prefetches],
  ['extents and zero runs agree with the content', mapFollowsChanges],
  ['random requests against a plain array', randomRequests],
  ['closes once, finishing what runs', closesOnce],
]
