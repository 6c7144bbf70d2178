/**
 * Images as streams of bytes: whole pieces out of a Readable, pieces into a Writable with back-pressure.
 */
import type { Readable, Writable } from 'node:stream'
import { asNbdeltaError } from '../device/errors.js'

/** Calls `take` with pieces of `pieceBytes` (the last one may be shorter), one after the other. Returns the bytes in all. */
export async function readStream(
  source: Readable, pieceBytes: number, take: (piece: Buffer, offset: number) => Promise<void>,
): Promise<number> {
  const piece = Buffer.alloc(pieceBytes)
  let offset = 0
  let filled = 0
  try {
    for await (const chunk of source as AsyncIterable<Buffer | string>) {
      const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk
      for (let at = 0; at < bytes.length;) {
        const part = Math.min(bytes.length - at, pieceBytes - filled)
        bytes.copy(piece, filled, at, at + part)
        at += part
        filled += part
        if (filled < pieceBytes) continue
        await take(piece, offset)
        offset += filled
        filled = 0
      }
    }
  } catch (error) {
    throw asNbdeltaError(error, 'read the image')
  }
  if (filled > 0) await take(piece.subarray(0, filled), offset)
  return offset + filled
}

/** Resolves when the stream has taken the piece and wants more. */
export function writeStream(target: Writable, piece: Buffer, doing = 'write the image'): Promise<void> {
  return new Promise((resolve, reject) => {
    target.write(piece, error => {
      if (error) reject(asNbdeltaError(error, doing))
      else resolve()
    })
  })
}
