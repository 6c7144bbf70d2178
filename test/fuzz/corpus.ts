/**
 * The fuzzer's starting material: good sessions as lists of frames. A frame keeps its fields apart, so that a mutation can lie
 * in one field and leave the rest of the stream in step, which is where parsers fall.
 */
import {
  CMD, command, EXT_REQUEST, FLAG, IHAVEOPT, INFO, infoData, metaData, OPT, pattern, REQUEST, statusPayload, u16, u32, u64,
  type Mode,
} from '../nbd/support/wire.js'

/** Exports that mutants may reach. Small, so that no mutant can ask for much work. */
export const FUZZ_BYTES = 128 * 1024
export const FUZZ_EXPORTS = ['disk', 'ro', 'late', 'block'] as const

export interface OptionFrame { readonly kind: 'option', magic: bigint, number: number, length: number, data: Buffer }
export interface RequestFrame {
  readonly kind: 'request'
  readonly extended: boolean
  magic: number
  flags: number
  type: number
  cookie: bigint
  offset: bigint
  length: bigint
  payload: Buffer
}
export interface RawFrame { readonly kind: 'raw', bytes: Buffer }
export type Frame = OptionFrame | RequestFrame | RawFrame

const raw = (bytes: Buffer): RawFrame => ({ kind: 'raw', bytes })

export function option(number: number, data: Buffer = Buffer.alloc(0)): OptionFrame {
  return { kind: 'option', magic: IHAVEOPT, number, length: data.length, data }
}

export function request(mode: Mode, type: number, offset: number, length: number, flags = 0,
  payload: Buffer = Buffer.alloc(0)): RequestFrame {
  const extended = mode === 'extended'
  return {
    kind: 'request', extended, magic: extended ? EXT_REQUEST : REQUEST, flags, type, cookie: BigInt(offset * 7 + length),
    offset: BigInt(offset),
    length: BigInt(payload.length || length), payload,
  }
}

export function encode(frame: Frame): Buffer {
  if (frame.kind === 'raw') return frame.bytes
  if (frame.kind === 'option') return Buffer.concat([u64(BigInt.asUintN(64, frame.magic)),
    u32(frame.number >>> 0, frame.length >>> 0), frame.data])
  const { magic, flags, type, cookie, offset, length, extended, payload } = frame
  return Buffer.concat([
    u32(magic >>> 0), u16(flags & 0xffff, type & 0xffff), u64(BigInt.asUintN(64, cookie), BigInt.asUintN(64, offset)),
    extended ? u64(BigInt.asUintN(64, length)) : u32(Number(BigInt.asUintN(32, length))), payload,
  ])
}

/** Good requests of every kind for a session in this mode. */
export function requests(mode: Mode): RequestFrame[] {
  const write = (offset: number, length: number, flags = 0): RequestFrame =>
    request(mode, CMD.WRITE, offset, length, flags | (mode === 'extended' ? FLAG.PAYLOAD_LEN : 0), pattern(offset, length))
  return [
    request(mode, CMD.READ, 0, 512), request(mode, CMD.READ, 4096, 9000), request(mode, CMD.READ, 100, 1),
    request(mode, CMD.READ, 0, 8192, FLAG.DF),
    request(mode, CMD.READ, 0, FUZZ_BYTES), write(0, 512), write(1, 17, FLAG.FUA), write(4096, 9000), write(20_000, 8193),
    request(mode, CMD.FLUSH, 0, 0),
    request(mode, CMD.TRIM, 8192, 8192), request(mode, CMD.TRIM, 1, 511, FLAG.FUA), request(mode, CMD.CACHE, 0, 65_536),
    request(mode, CMD.WRITE_ZEROES, 4096, 4096), request(mode, CMD.WRITE_ZEROES, 0, 65_536, FLAG.NO_HOLE),
    request(mode, CMD.WRITE_ZEROES, 4096, 8192, FLAG.FAST_ZERO),
    request(mode, CMD.BLOCK_STATUS, 0, FUZZ_BYTES), request(mode, CMD.BLOCK_STATUS, 512, 512, FLAG.REQ_ONE),
    request(mode, 99, 0, 0),
    ...mode === 'extended' ? [
      request(mode, CMD.BLOCK_STATUS, 0, 0, FLAG.PAYLOAD_LEN, statusPayload(4096, [1])),
      request(mode, CMD.FLUSH, 0, 0, FLAG.PAYLOAD_LEN, Buffer.alloc(700, 3)),
    ] : [],
    request(mode, CMD.DISC, 0, 0),
  ]
}

/** Good handshakes up to and with the way into transmission, for each export and mode. */
export function handshake(mode: Mode, name: string): Frame[] {
  const metas = mode === 'simple' ? [] : [
    option(mode === 'extended' ? OPT.EXTENDED_HEADERS : OPT.STRUCTURED_REPLY),
    option(OPT.SET_META_CONTEXT, metaData(name, ['base:allocation'])),
  ]
  return [raw(u32(3)), ...metas, option(OPT.GO, infoData(name, [INFO.BLOCK_SIZE]))]
}

/** Options for their own sake, good and useless. */
export function options(): OptionFrame[] {
  return [
    option(OPT.LIST), option(OPT.INFO, infoData('disk', [0, 1, 2, 3])), option(OPT.INFO, infoData('nope')),
    option(OPT.LIST_META_CONTEXT, metaData('disk')),
    option(OPT.LIST_META_CONTEXT, metaData('ro', ['base:', 'qemu:', 'x-y:z'])),
    option(OPT.SET_META_CONTEXT, metaData('disk', [])), option(OPT.STARTTLS),
    option(OPT.PEEK_EXPORT, Buffer.from('disk')), option(OPT.EXPORT_NAME, Buffer.from('disk')), option(OPT.ABORT),
    option(77, Buffer.alloc(300, 0x49)),
    option(OPT.STRUCTURED_REPLY), option(OPT.EXTENDED_HEADERS),
  ]
}

/** A request that a session in step always answers. */
export function sentinel(mode: Mode, cookie: bigint): Buffer {
  return command(mode, { type: CMD.FLUSH, cookie })
}
