/**
 * Every number of the NBD protocol (PROTOCOL section 1), named once. Values only: no behaviour, no policy.
 * 64-bit magics are BigInt because they only meet the wire in the handshake, never on the hot path.
 */

export const NBDMAGIC = 0x4e42444d41474943n
export const IHAVEOPT = 0x49484156454f5054n
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n

export const REQUEST_MAGIC = 0x25609513
export const SIMPLE_REPLY_MAGIC = 0x67446698
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c

/** Sizes in bytes of everything with a fixed size on the wire. */
export const SIZE = Object.freeze({
  hello: 18,
  clientFlags: 4,
  optionHeader: 16,
  optionReplyHeader: 20,
  request: 28,
  extendedRequest: 32,
  simpleReply: 16,
  structuredChunk: 20,
  extendedChunk: 32,
  exportNamePadding: 124,
})

export const DEFAULT_PORT = 10809
/** H5: names and descriptions never exceed this many bytes. */
export const MAX_STRING_BYTES = 4096
/** Queries of one metadata option that are looked at (C4): an option of 1 MiB could hold 260,000, 90 ms of work. */
export const MAX_META_QUERIES = 4096

export const HANDSHAKE_FLAG = Object.freeze({ fixedNewstyle: 1, noZeroes: 2 })

export const OPTION = Object.freeze({
  exportName: 1, abort: 2, list: 3, peekExport: 4, startTls: 5, info: 6, go: 7,
  structuredReply: 8, listMetaContext: 9, setMetaContext: 10, extendedHeaders: 11,
})

const ERROR_BASE = 2 ** 31
export const REPLY = Object.freeze({
  ack: 1, server: 2, info: 3, metaContext: 4,
  errUnsup: ERROR_BASE + 1, errPolicy: ERROR_BASE + 2, errInvalid: ERROR_BASE + 3, errPlatform: ERROR_BASE + 4,
  errTlsReqd: ERROR_BASE + 5, errUnknown: ERROR_BASE + 6, errShutdown: ERROR_BASE + 7, errBlockSizeReqd: ERROR_BASE + 8,
  errTooBig: ERROR_BASE + 9, errExtHeaderReqd: ERROR_BASE + 10,
})

export const INFO = Object.freeze({ export: 0, name: 1, description: 2, blockSize: 3 })

export const TRANSMISSION_FLAG = Object.freeze({
  hasFlags: 1 << 0, readOnly: 1 << 1, sendFlush: 1 << 2, sendFua: 1 << 3, rotational: 1 << 4, sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6, sendDf: 1 << 7, canMultiConn: 1 << 8, sendResize: 1 << 9, sendCache: 1 << 10,
  sendFastZero: 1 << 11, blockStatusPayload: 1 << 12,
})

export const COMMAND = Object.freeze({
  read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, cache: 5, writeZeroes: 6, blockStatus: 7,
})
/** Indexed by command number. */
export const COMMAND_NAMES = Object.freeze(
  ['read', 'write', 'disconnect', 'flush', 'trim', 'cache', 'writeZeroes', 'blockStatus'] as const)

export const COMMAND_FLAG = Object.freeze({
  fua: 1 << 0, noHole: 1 << 1, df: 1 << 2, reqOne: 1 << 3, fastZero: 1 << 4, payloadLen: 1 << 5,
})

export const CHUNK = Object.freeze({
  none: 0, offsetData: 1, offsetHole: 2, blockStatus: 5, blockStatusExt: 6, error: 0x8001, errorOffset: 0x8002,
})
export const CHUNK_FLAG_DONE = 1

/** The only eight values that may stand in an error field. */
export const ERRNO = Object.freeze({
  EPERM: 1, EIO: 5, ENOMEM: 12, EINVAL: 22, ENOSPC: 28, EOVERFLOW: 75, ENOTSUP: 95, ESHUTDOWN: 108,
})
export type ErrnoName = keyof typeof ERRNO

/** The metadata context every server has, and its state bits. */
export const BASE_ALLOCATION = 'base:allocation'
