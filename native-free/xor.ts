/**
 * Parity: xor of one range of bytes into another, eight bytes at a time where both ranges are aligned alike.
 */
const WORD_BYTES = 8

/** `target[targetAt, + length) ^= source[sourceAt, + length)`. The ranges must not overlap unless they are the same. */
export function xorInto(target: Buffer, targetAt: number, source: Buffer, sourceAt: number, length: number): void {
  const inside = targetAt >= 0 && sourceAt >= 0 && targetAt + length <= target.length && sourceAt + length <= source.length
  if (!inside || length < 0) {
    throw new RangeError(`xor of ${length} bytes at ${sourceAt} of ${source.length} into ${targetAt} of ${target.length}`)
  }
  const targetByte = target.byteOffset + targetAt
  const sourceByte = source.byteOffset + sourceAt
  // Bytes up to the next word border; all of them where the two ranges never reach a border together.
  const alike = targetByte % WORD_BYTES === sourceByte % WORD_BYTES
  const head = alike ? Math.min(length, (WORD_BYTES - targetByte % WORD_BYTES) % WORD_BYTES) : length
  const words = Math.floor((length - head) / WORD_BYTES)
  xorBytes(target, targetAt, source, sourceAt, head)
  if (words > 0) {
    xorWords(new BigUint64Array(target.buffer, targetByte + head, words),
      new BigUint64Array(source.buffer, sourceByte + head, words))
  }
  const done = head + words * WORD_BYTES
  xorBytes(target, targetAt + done, source, sourceAt + done, length - done)
}

function xorBytes(target: Buffer, targetAt: number, source: Buffer, sourceAt: number, length: number): void {
  for (let i = 0; i < length; i++) target[targetAt + i] ^= source[sourceAt + i]
}

function xorWords(target: BigUint64Array, source: BigUint64Array): void {
  for (let i = 0; i < target.length; i++) target[i] ^= source[i]
}
