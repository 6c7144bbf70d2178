/**
 * Inputs of the fuzzer. `makeInput(seed, index)` is a pure function: the same pair gives the same bytes, on any machine, whatever
 * ran before; so a failure is reported as its pair, and replayed from it.
 *
 *   session  a whole connection: handshake, requests, end of stream
 *   burst    a few requests sent on a connection that is in transmission already, with a good one behind them
 */
import { seededRandom, type Random } from '../../src/device/random.js'
import { MODES, type Mode } from '../nbd/support/wire.js'
import { encode, FUZZ_BYTES, FUZZ_EXPORTS, handshake, options, request, requests, type Frame,
  type RequestFrame } from './corpus.js'

export interface Input {
  readonly kind: 'session' | 'burst'
  readonly mode: Mode
  readonly name: string
  readonly bytes: Buffer
  /** Where the bytes are cut into packets. */
  readonly cuts: readonly number[]
}

const INTERESTING: readonly bigint[] = [
  ...[0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 27, 28, 31, 32, 33, 63, 64, 100, 127, 128, 255, 256, 511, 512, 513, 4095, 4096, 4097,
    8191, 8192, 8193, 65_535, 65_536],
  FUZZ_BYTES - 1, FUZZ_BYTES, FUZZ_BYTES + 1, 2 ** 20, 2 ** 25, 2 ** 25 + 1, 2 ** 26, 2 ** 26 + 1, 2 ** 31 - 1, 2 ** 31,
  2 ** 32 - 512, 2 ** 32 - 1, 2 ** 32,
  2 ** 53 - 1, 2 ** 53,
].map(BigInt).concat([2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 512n, 2n ** 64n - 1n])

class Dice {
  readonly #random: Random
  constructor(random: Random) { this.#random = random }
  /** 0 <= result < below. */
  below(below: number): number { return this.#random(below) }
  pick<T>(from: readonly T[]): T { return from[this.below(from.length)] }
  chance(oneIn: number): boolean { return this.below(oneIn) === 0 }
  number(near: bigint): bigint {
    switch (this.below(5)) {
      case 0: return near + BigInt(this.below(9) - 4)
      case 1: return near ^ (1n << BigInt(this.below(64)))
      case 2: return BigInt(this.below(2 ** 31)) << BigInt(this.below(34))
      default: return this.pick(INTERESTING)
    }
  }
  bytes(length: number): Buffer {
    const out = Buffer.alloc(length)
    for (let i = 0; i < length; i++) out[i] = this.below(256)
    return out
  }
}

/** Frames are changed in place, so each input starts from copies; their buffers are never changed in place. */
const REQUESTS = Object.fromEntries(MODES.map(mode => [mode, requests(mode)])) as Record<Mode, RequestFrame[]>
const OPTIONS = options()
const copy = <F extends Frame>(frame: F): F => ({ ...frame })

function mutateFrame(frame: Frame, dice: Dice): void {
  if (frame.kind === 'raw') {
    frame.bytes = mutateBytes(frame.bytes, dice)
    return
  }
  if (frame.kind === 'option') {
    switch (dice.below(8)) {
      case 0: frame.magic = dice.number(frame.magic); break
      case 1: frame.number = dice.chance(2) ? dice.below(14) : Number(BigInt.asUintN(32,
        dice.number(BigInt(frame.number)))); break
      case 2: case 3: frame.length = Number(BigInt.asUintN(32, dice.number(BigInt(frame.length)))); break
      // The data changes and the length goes with it: this reaches the option's own parser.
      default:
        frame.data = mutateBytes(frame.data, dice)
        frame.length = frame.data.length
    }
    return
  }
  switch (dice.below(9)) {
    case 0: frame.magic = Number(BigInt.asUintN(32, dice.number(BigInt(frame.magic)))); break
    case 1: frame.type = dice.chance(2) ? dice.below(10) : dice.below(65_536); break
    case 2: frame.flags = dice.chance(2) ? 1 << dice.below(16) : dice.below(65_536); break
    case 3: frame.flags = dice.below(64); break
    case 4: frame.cookie = dice.number(frame.cookie); break
    case 5: case 6: frame.offset = dice.number(frame.offset); break
    case 7: frame.length = dice.number(frame.length); break
    default:
      frame.payload = mutateBytes(frame.payload, dice)
      if (!dice.chance(4)) frame.length = BigInt(frame.payload.length)
  }
}

function mutateFrames(frames: Frame[], dice: Dice): void {
  const at = dice.below(frames.length)
  switch (dice.below(7)) {
    case 0: frames.splice(at, 1); break
    case 1: frames.splice(at, 0, copy(frames[dice.below(frames.length)])); break
    case 2: {
      const other = dice.below(frames.length)
      ;[frames[at], frames[other]] = [frames[other], frames[at]]
      break
    }
    case 3: frames.splice(at, 0, copy<Frame>(dice.chance(2) ? dice.pick(OPTIONS) : dice.pick(REQUESTS[dice.pick(MODES)]))); break
    default: mutateFrame(frames[at], dice)
  }
  if (frames.length === 0) frames.push({ kind: 'raw', bytes: dice.bytes(dice.below(40)) })
}

/** One change that knows nothing of frames. */
export function mutateBytes(bytes: Buffer, dice: Dice): Buffer {
  const at = dice.below(bytes.length + 1)
  const run = Math.min(bytes.length - at, 1 + dice.below(dice.chance(4) ? 300 : 8))
  switch (dice.below(7)) {
    case 0: return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + run)])
    case 1: return Buffer.concat([bytes.subarray(0, at), dice.bytes(1 + dice.below(dice.chance(8) ? 5000 : 16)),
      bytes.subarray(at)])
    case 2: return Buffer.concat([bytes.subarray(0, at + run), bytes.subarray(at)])
    case 3: return Buffer.from(bytes.subarray(0, at))
    default: {
      const out = Buffer.from(bytes)
      const width = dice.pick([1, 2, 4, 8])
      if (at + width > out.length) return out
      const value = BigInt.asUintN(width * 8, dice.number(0n))
      for (let i = 0; i < width; i++) out[at + i] = Number((value >> BigInt((width - 1 - i) * 8)) & 0xffn)
      return out
    }
  }
}

/** Input number `index` of the run with this seed. */
export function makeInput(seed: number, index: number): Input {
  const dice = new Dice(seededRandom((seed * 0x1_0000 + index * 0x9e37_79b1) >>> 0))
  // Neighbouring seeds begin alike; a few throws part them.
  dice.below(2 + (index & 1))
  const mode = dice.pick(MODES)
  const name = dice.pick(FUZZ_EXPORTS)
  const kind = dice.chance(3) ? 'session' : 'burst'
  const frames: Frame[] = kind === 'session' ? handshake(mode, name) : []
  if (kind === 'session' && dice.chance(2)) frames.splice(1 + dice.below(frames.length - 1), 0, copy(dice.pick(OPTIONS)))
  const count = 1 + dice.below(kind === 'session' ? 6 : 4)
  for (let i = 0; i < count; i++) frames.push(dice.chance(6) ? request(mode, dice.below(10), dice.below(FUZZ_BYTES),
    dice.below(70_000)) : copy(dice.pick(REQUESTS[mode])))
  for (let turns = 1 + dice.below(3); turns > 0; turns--) mutateFrames(frames, dice)
  let bytes = Buffer.concat(frames.map(encode))
  if (dice.chance(4)) bytes = Buffer.from(mutateBytes(bytes, dice))
  const cuts = dice.chance(4) ? Array.from({ length: 1 + dice.below(3) },
    () => dice.below(bytes.length + 1)).sort((a, b) => a - b) : []
  return { kind, mode, name, bytes, cuts }
}
