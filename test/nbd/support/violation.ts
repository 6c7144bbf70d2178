/** What a server must never send: thrown by the test client wherever a MUST of PROTOCOL is broken on the server's side. */
export class Violation extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'Violation'
  }
}

export function ensure(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Violation(message)
}

/** H5: strings are UTF-8 without NUL, at most 4096 bytes. */
export function ensureText(bytes: Buffer, what: string): string {
  ensure(bytes.length <= 4096, `${what}: a string of ${bytes.length} bytes`)
  ensure(!bytes.includes(0), `${what}: a NUL in a string`)
  const text = bytes.toString('utf8')
  ensure(Buffer.from(text).equals(bytes), `${what}: not UTF-8: ${bytes.toString('latin1')}`)
  return text
}
