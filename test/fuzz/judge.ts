/**
 * What may be said about a server's output without knowing what it was asked: every frame of it is well formed. Handshake
 * replies and chunks tell their own length; after a simple reply or an answer to EXPORT_NAME nothing more can be known.
 */
import { CHUNK, ERRNOS, EXT_REPLY, NBDMAGIC, OPTION_REPLY, SIMPLE, STRUCTURED } from '../nbd/support/wire.js'

/** What is wrong with a whole session's output, or undefined. It may end anywhere: connections are dropped. */
export function judgeSession(output: Buffer): string | undefined {
  if (output.length < 18) return output.length === 0 ? undefined : 'half a hello'
  if (output.readBigUInt64BE(0) !== NBDMAGIC || output.readUInt16BE(16) !== 3) return 'a hello that is none'
  let at = 18
  while (output.length - at >= 20 && output.readBigUInt64BE(at) === OPTION_REPLY) {
    const type = output.readUInt32BE(at + 12)
    const length = output.readUInt32BE(at + 16)
    if (!((type >= 1 && type <= 4) || (type >= 0x8000_0001 && type <= 0x8000_000a))) return `option reply type ${type}`
    if (length > 16_384) return `option reply of ${length} bytes`
    if (type === 1 && length !== 0) return 'an ACK with data'
    at += 20 + length
  }
  return judgeReplies(output.subarray(Math.min(at, output.length)))
}

/** What is wrong with replies from the start of `output` on, or undefined. */
export function judgeReplies(output: Buffer): string | undefined {
  let at = 0
  for (;;) {
    if (output.length - at < 4) return undefined
    const magic = output.readUInt32BE(at)
    const head = magic === STRUCTURED ? 20 : magic === EXT_REPLY ? 32 : 0
    if (head === 0) {
      if (magic === SIMPLE && output.length - at >= 8) return judgeErrno(output.readUInt32BE(at + 4), true)
      // The first bytes after the handshake may answer EXPORT_NAME; later ones must be replies.
      return at === 0 || magic === SIMPLE ? undefined : `reply magic 0x${magic.toString(16)} at byte ${at}`
    }
    if (output.length - at < head) return undefined
    const flags = output.readUInt16BE(at + 4)
    const type = output.readUInt16BE(at + 6)
    const length = head === 20 ? output.readUInt32BE(at + 16) : Number(output.readBigUInt64BE(at + 24))
    if (flags > 1) return `reply flags ${flags}`
    if (!Object.values<number>(CHUNK).includes(type)) return `chunk type ${type}`
    if (length > 64 * 2 ** 20 + 16) return `chunk of ${length} bytes`
    const isError = type === CHUNK.ERROR || type === CHUNK.ERROR_OFFSET
    if (isError && output.length - at >= head + 4) {
      const wrong = judgeErrno(output.readUInt32BE(at + head), false)
      if (wrong) return wrong
    }
    at += head + length
  }
}

function judgeErrno(errno: number, zeroAllowed: boolean): string | undefined {
  return (zeroAllowed && errno === 0) || ERRNOS.includes(errno) ? undefined : `errno ${errno}`
}
