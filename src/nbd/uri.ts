/** NBD URIs of what this server serves (PROTOCOL section 16). */
import { DEFAULT_PORT } from '../../native-free/nbd/constants.js'
import type { BoundAddress } from './listener.js'

/** `nbd+unix:///NAME?socket=PATH` or `nbd://HOST[:PORT]/NAME`. A wildcard address is given as localhost. */
export function nbdUri(address: BoundAddress, exportName: string): string {
  const name = encodeURIComponent(exportName)
  if ('path' in address) return `nbd+unix:///${name}?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`
  const wildcard = address.host === '0.0.0.0' || address.host === '::'
  const host = wildcard ? 'localhost' : address.host.includes(':') ? `[${address.host}]` : address.host
  return `nbd://${host}${address.port === DEFAULT_PORT ? '' : `:${address.port}`}/${name}`
}
