/** URIs of peers, as typed for a mirror: where its link is, and which volume there. Nothing else can be named in one. */
import { NbdeltaError } from '../device/errors.js'

const FORMS = 'nbdelta://HOST:PORT/VOLUME or nbdelta+unix:///VOLUME?socket=/PATH'
const TCP = /^nbdelta:\/\/(?:\[([0-9a-f:.]+)\]|([^:[\]/?#@\s]+)):(\d{1,5})\/([^/?#]+)$/i
const UNIX = /^nbdelta\+unix:\/\/\/([^/?#]+)\?socket=([^&#]+)$/i

export type LinkAddress = { readonly path: string } | { readonly host: string, readonly port: number }
export interface PeerPlace { readonly address: LinkAddress, readonly volume: string }

/** Errors: bad-argument. */
export function parsePeerUri(uri: string): PeerPlace {
  const tcp = TCP.exec(uri)
  if (tcp) {
    const port = Number(tcp[3])
    if (port < 1 || port > 65_535) throw refused(uri)
    return { address: { host: tcp[1] ?? tcp[2]!, port }, volume: decoded(uri, tcp[4]!) }
  }
  const unix = UNIX.exec(uri)
  if (!unix) throw refused(uri)
  return { address: { path: decoded(uri, unix[2]!) }, volume: decoded(uri, unix[1]!) }
}

function decoded(uri: string, text: string): string {
  try {
    const plain = decodeURIComponent(text)
    if (!plain.includes('\0')) return plain
  } catch { /* a % that is not followed by two digits */ }
  throw refused(uri)
}

function refused(uri: string): NbdeltaError {
  return new NbdeltaError('bad-argument', `${JSON.stringify(uri.slice(0, 200))} does not name a volume of a peer`,
    { hint: `write ${FORMS}` })
}
