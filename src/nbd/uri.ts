/**
 * NBD URIs (PROTOCOL section 16): those of what this server serves, and a parser of what a person typed.
 *
 * The parser takes nothing on trust: a URI is untrusted input, so it can name a place to connect to and an export, and
 * nothing else (no files, no credentials). Whatever is not understood is refused, with what to write instead.
 */
import { DEFAULT_PORT, MAX_STRING_BYTES } from '../../native-free/nbd/constants.js'
import { NbdeltaError } from '../device/errors.js'
import type { BoundAddress } from './listener.js'

/** `nbd+unix:///NAME?socket=PATH` or `nbd://HOST[:PORT]/NAME`. A wildcard address is given as localhost. */
export function nbdUri(address: BoundAddress, exportName: string): string {
  const name = encodeURIComponent(exportName)
  if ('path' in address) return `nbd+unix:///${name}?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`
  const wildcard = address.host === '0.0.0.0' || address.host === '::'
  const host = wildcard ? 'localhost' : address.host.includes(':') ? `[${address.host}]` : address.host
  return `nbd://${host}${address.port === DEFAULT_PORT ? '' : `:${address.port}`}/${name}`
}

export interface NbdTarget {
  /** An abstract unix socket's path begins with NUL. */
  readonly address: BoundAddress
  /** The empty name is the server's default export. */
  readonly exportName: string
}

const TCP_FORM = 'nbd://HOST[:PORT]/EXPORT'
const UNIX_FORM = 'nbd+unix:///EXPORT?socket=/PATH'
/** The parts of RFC 3986: scheme, authority, path, query, fragment. */
const PARTS = /^([a-z][a-z0-9+.-]*):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?$/is
/** Printed instead of a longer URI, and no credentials are ever printed. */
const SHOWN_CHARACTERS = 120

/** Where a URI leads. Refuses with `bad-argument`, saying what to write instead; TLS is not supported yet. */
export function parseNbdUri(uri: string): NbdTarget {
  const parts = PARTS.exec(uri)
  if (parts === null) throw refusal(uri, 'it is not a URI', `write ${TCP_FORM} or ${UNIX_FORM}`)
  const [, scheme, authority, path, query, fragment] = parts
  const unix = judgeScheme(uri, scheme!.toLowerCase())
  if (fragment !== undefined) throw refusal(uri, 'it has a fragment', 'write "#" within a name as %23')
  const parameters = parseQuery(uri, query ?? '', unix)
  const exportName = decode(uri, path!.replace(/^\//, ''), 'the export name')
  if (exportName.includes('\0') || Buffer.byteLength(exportName) > MAX_STRING_BYTES) {
    throw refusal(uri, `an export name has at most ${MAX_STRING_BYTES} bytes and no NUL (H5)`)
  }
  if (!unix) return { address: parseAuthority(uri, authority ?? ''), exportName }
  if (authority) throw refusal(uri, 'a unix socket has no host', `write three slashes: ${UNIX_FORM}`)
  const socket = parameters.get('socket')
  if (socket === undefined || socket === '') throw refusal(uri, 'the socket is missing', `write ${UNIX_FORM}`)
  if (socket.indexOf('\0', 1) >= 0) throw refusal(uri, 'the path of the socket has a NUL inside')
  return { address: { path: socket }, exportName }
}

/** Whether the scheme is one of a unix socket. */
function judgeScheme(uri: string, scheme: string): boolean {
  switch (scheme) {
    case 'nbd': return false
    case 'nbd+unix': return true
    case 'nbds': case 'nbds+unix':
      throw refusal(uri, 'TLS is not supported yet', `without TLS write ${scheme.replace('nbds', 'nbd')}: on a network you trust`)
    default: throw refusal(uri, `${show(scheme)} is not a scheme known here`, `write ${TCP_FORM} or ${UNIX_FORM}`)
  }
}

function parseAuthority(uri: string, authority: string): BoundAddress {
  if (authority.includes('@')) throw refusal(uri, 'a user needs TLS, which is not supported yet', `write ${TCP_FORM}`)
  const parts = /^(?:\[([0-9a-f:.]+(?:%25[\w.-]+)?)\]|([^:[\]]*))(?::(\d*))?$/i.exec(authority)
  const host = parts === null ? '' : decode(uri, parts[1] ?? parts[2] ?? '', 'the host')
  if (host === '' || /[\s\0]/.test(host)) {
    throw refusal(uri, 'the host is missing or not a host', `write ${TCP_FORM}, IPv6 addresses in brackets`)
  }
  const port = parts![3] ? Number(parts![3]) : DEFAULT_PORT
  if (port < 1 || port > 65_535) throw refusal(uri, 'a port is a number from 1 to 65535')
  return { host, port }
}

function parseQuery(uri: string, query: string, unix: boolean): Map<string, string> {
  const found = new Map<string, string>()
  for (const part of query.split('&').filter(part => part !== '')) {
    const [name, value] = cut(part, '=').map(text => decode(uri, text, 'a parameter')) as [string, string]
    if (name.startsWith('tls-')) throw refusal(uri, `${show(name)}: TLS is not supported yet`, 'leave it out')
    if (name !== 'socket' || !unix) {
      const known = unix ? 'the only one known is socket' : `for a unix socket write ${UNIX_FORM}`
      throw refusal(uri, `${show(name)} is not a parameter of this kind of URI`, known)
    }
    if (found.has(name)) throw refusal(uri, `${name} is given twice`)
    found.set(name, value)
  }
  return found
}

function cut(text: string, at: string): [string, string] {
  const place = text.indexOf(at)
  return place < 0 ? [text, ''] : [text.slice(0, place), text.slice(place + 1)]
}

function decode(uri: string, text: string, what: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw refusal(uri, `${what} has a "%" that is not followed by two digits of valid UTF-8`, 'write "%" itself as %25')
  }
}

function refusal(uri: string, why: string, hint?: string): NbdeltaError {
  return new NbdeltaError('bad-argument', `NBD URI ${show(uri.replace(/\/\/[^/@?#]*@/, '//'))}: ${why}`, { hint })
}

/** Escaped and cut. */
function show(text: string): string {
  return JSON.stringify(text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}...` : text)
}
