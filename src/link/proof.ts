/**
 * Who may speak: both sides know a secret, and prove it without saying it (docs/peer-link.md). Each proof is bound to a nonce of
 * the other side, so a recorded one is worth nothing, and to a role, so that none can be sent back to who made it.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { open } from 'node:fs/promises'
import { asNbdeltaError, NbdeltaError } from '../device/errors.js'

/** Of the link, in its greeting. Another one is another protocol. */
export const LINK_VERSION = 1
const NONCE_BYTES = 32
const SECRET_BYTES_MIN = 16
const SECRET_BYTES_MAX = 4096
const HEX = /^[0-9a-f]{64}$/

export function makeNonce(): string { return randomBytes(NONCE_BYTES).toString('hex') }

/** Nonces and proofs look alike: 64 small hexadecimal digits. */
export function isHex(value: unknown): value is string { return typeof value === 'string' && HEX.test(value) }

/** @param nonces the server's first from the client, the client's first from the server */
export function prove(secret: Buffer, role: 'client' | 'server', nonces: readonly [string, string]): string {
  return createHmac('sha256', secret).update(role + nonces.join('')).digest('hex')
}

/** Takes as long whatever differs. */
export function isProof(given: unknown, secret: Buffer, role: 'client' | 'server', nonces: readonly [string, string]): boolean {
  const right = Buffer.from(prove(secret, role, nonces))
  return timingSafeEqual(isHex(given) ? Buffer.from(given) : Buffer.alloc(right.length), right)
}

/** The secret in a file; an end of line behind it is not part of it. Errors: not-found, denied, bad-argument, io. */
export async function readSecret(path: string): Promise<Buffer> {
  const file = await open(path, 'r').catch((error: unknown) => { throw asNbdeltaError(error, `open the secret ${path}`) })
  try {
    const facts = await file.stat()
    if (!facts.isFile()) throw new NbdeltaError('bad-argument', `the secret ${path} is no file`)
    if ((facts.mode & 0o077) !== 0) {
      throw new NbdeltaError('denied', `the secret ${path} can be read by others than its owner`, { hint: `chmod 600 ${path}` })
    }
    if (facts.size > SECRET_BYTES_MAX) throw refused(path, `has more than ${SECRET_BYTES_MAX} bytes`)
    const text = (await file.readFile()).toString('latin1').replace(/\r?\n$/, '')
    if (text.length < SECRET_BYTES_MIN) throw refused(path, `has fewer than ${SECRET_BYTES_MIN} bytes`)
    return Buffer.from(text, 'latin1')
  } catch (error) {
    throw asNbdeltaError(error, `read the secret ${path}`)
  } finally { await file.close() }
}

function refused(path: string, why: string): NbdeltaError {
  return new NbdeltaError('bad-argument', `the secret ${path} ${why}`,
    { hint: `(umask 077; head -c 32 /dev/urandom | base64 > ${path})` })
}
