/**
 * The tests' own copy of PROTOCOL section 1 and of its wire layouts, written from the specification and not from the
 * server's codec, so that a wrong number in one of the two cannot hide. Builders only; nothing here judges.
 */
export const NBDMAGIC = 0x4e42444d41474943n
export const IHAVEOPT = 0x49484156454f5054n
export const OPTION_REPLY = 0x0003e889045565a9n
export const REQUEST = 0x25609513
export const EXT_REQUEST = 0x21e41c71
export const SIMPLE = 0x67446698
export const STRUCTURED = 0x668e33ef
export const EXT_REPLY = 0x6e8a278c

export const OPT = {
  EXPORT_NAME: 1, ABORT: 2, LIST: 3, PEEK_EXPORT: 4, STARTTLS: 5, INFO: 6, GO: 7, STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9, SET_META_CONTEXT: 10, EXTENDED_HEADERS: 11,
} as const

export const REP = {
  ACK: 1, SERVER: 2, INFO: 3, META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001, ERR_POLICY: 0x80000002, ERR_INVALID: 0x80000003, ERR_PLATFORM: 0x80000004, ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006, ERR_SHUTDOWN: 0x80000007, ERR_BLOCK_SIZE_REQD: 0x80000008, ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const

export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const

export const CMD = {
  READ: 0, WRITE: 1, DISC: 2, FLUSH: 3, TRIM: 4, CACHE: 5, WRITE_ZEROES: 6, BLOCK_STATUS: 7,
} as const

export const FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16, PAYLOAD_LEN: 32 } as const

/** Transmission flags. */
export const TX = {
  HAS_FLAGS: 1, READ_ONLY: 2, SEND_FLUSH: 4, SEND_FUA: 8, ROTATIONAL: 16, SEND_TRIM: 32, SEND_WRITE_ZEROES: 64, SEND_DF: 128,
  CAN_MULTI_CONN: 256, SEND_RESIZE: 512, SEND_CACHE: 1024, SEND_FAST_ZERO: 2048, BLOCK_STATUS_PAYLOAD: 4096,
} as const

export const CHUNK = {
  NONE: 0, OFFSET_DATA: 1, OFFSET_HOLE: 2, BLOCK_STATUS: 5, BLOCK_STATUS_EXT: 6, ERROR: 0x8001, ERROR_OFFSET: 0x8002,
} as const

export const ERR = {
  OK: 0, EPERM: 1, EIO: 5, ENOMEM: 12, EINVAL: 22, ENOSPC: 28, EOVERFLOW: 75, ENOTSUP: 95, ESHUTDOWN: 108,
} as const
export const ERRNOS: readonly number[] = [1, 5, 12, 22, 28, 75, 95, 108]

export const KIB = 1024
export const MIB = 1024 * KIB
export const GIB = 1024 * MIB

export type Mode = 'simple' | 'structured' | 'extended'
export const MODES: readonly Mode[] = ['simple', 'structured', 'extended']

export function u16(...values: number[]): Buffer {
  const out = Buffer.alloc(values.length * 2)
  values.forEach((value, i) => out.writeUInt16BE(value, i * 2))
  return out
}
export function u32(...values: number[]): Buffer {
  const out = Buffer.alloc(values.length * 4)
  values.forEach((value, i) => out.writeUInt32BE(value, i * 4))
  return out
}
export function u64(...values: (number | bigint)[]): Buffer {
  const out = Buffer.alloc(values.length * 8)
  values.forEach((value, i) => out.writeBigUInt64BE(BigInt(value), i * 8))
  return out
}
/** {len32, bytes}. */
export function counted(text: string | Buffer): Buffer {
  const bytes = Buffer.from(text as string)
  return Buffer.concat([u32(bytes.length), bytes])
}

/** One client option; `length` lies about the data when given. */
export function option(number: number, data: Buffer = Buffer.alloc(0), length = data.length): Buffer {
  return Buffer.concat([u64(IHAVEOPT), u32(number, length), data])
}
/** Data of INFO and GO. */
export function infoData(name: string | Buffer, infos: readonly number[] = []): Buffer {
  return Buffer.concat([counted(name), u16(infos.length, ...infos)])
}
/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function metaData(name: string | Buffer, queries: readonly (string | Buffer)[] = []): Buffer {
  return Buffer.concat([counted(name), u32(queries.length), ...queries.map(counted)])
}

export interface Command {
  readonly type: number
  readonly flags?: number
  readonly cookie?: bigint
  readonly offset?: number | bigint
  /** Defaults to the payload's length. */
  readonly length?: number | bigint
  /** Sent behind the header as it is, whatever `length` says. */
  readonly payload?: Buffer
  readonly magic?: number
}

/** One request, in the form the session has agreed on. */
export function command(mode: Mode, c: Command): Buffer {
  const length = c.length ?? c.payload?.length ?? 0
  const front = Buffer.concat([
    u32(c.magic ?? (mode === 'extended' ? EXT_REQUEST : REQUEST)), u16(c.flags ?? 0, c.type), u64(c.cookie ?? 0n, c.offset ?? 0),
    mode === 'extended' ? u64(length) : u32(Number(length)),
  ])
  return c.payload ? Buffer.concat([front, c.payload]) : front
}

/** The payload of a BLOCK_STATUS with PAYLOAD_LEN (E5). */
export function statusPayload(effectLength: number | bigint, ids: readonly number[]): Buffer {
  return Buffer.concat([u64(effectLength), u32(...ids)])
}

/** A prime, so that no power-of-two displacement of the pattern looks like the pattern. */
const TILE_BYTES = 65_521
const tiles = new Map<number, Buffer>()

function tile(seed: number): Buffer {
  let found = tiles.get(seed)
  if (!found) {
    found = Buffer.alloc(TILE_BYTES)
    for (let i = 0, state = seed * 0x9e3779b1 | 1; i < TILE_BYTES; i++) {
      state = Math.imul(state, 1_664_525) + 1_013_904_223 | 0
      found[i] = state >>> 24
    }
    tiles.set(seed, found)
  }
  return found
}

/** Content that tells its own place: the bytes of [offset, offset + length) of an endless stream that depends on the seed. */
export function pattern(offset: number, length: number, seed = 1): Buffer {
  const out = Buffer.allocUnsafe(length)
  const source = tile(seed)
  for (let at = 0; at < length;) at += source.copy(out, at, (offset + at) % TILE_BYTES)
  return out
}
