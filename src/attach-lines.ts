/**
 * What `serve` prints when it is ready: lines that attach an export with common clients, ready to be pasted.
 * Pure: names and addresses in, text out. Everything that could mean something to a shell is quoted.
 */
import { resolve } from 'node:path'
import { count, formatSize, shorten } from './control/options.js'

type Listening = { readonly path: string } | { readonly host: string, readonly port: number }

interface Attachable {
  readonly name: string
  readonly sizeBytes: number
  /** One per listener, in the same order. */
  readonly uris: readonly string[]
}

/** More would scroll the first away; `nbdelta export list` shows all. */
const SHOWN_MAX = 8
/** The kernel spreads requests over its connections by CPU; four keep a server with one event loop busy. */
const KERNEL_CONNECTIONS = 4

/** A word as a shell reads it back unchanged. */
function quote(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replace(/'/g, `'\\''`)}'`
}

function reachable(host: string): string { return host === '0.0.0.0' || host === '::' ? 'localhost' : host }

function clientLine({ name }: Attachable, listening: Listening): string {
  const words = 'path' in listening ? ['-unix', quote(resolve(listening.path)), '/dev/nbd0']
    : [quote(reachable(listening.host)), String(listening.port), '/dev/nbd0']
  return ['sudo nbd-client', '-N', quote(name), '-C', KERNEL_CONNECTIONS, ...words].join(' ')
}

function attachLines(one: Attachable, listeners: readonly Listening[]): string[] {
  const file = quote(`${one.name.replace(/[^\w.-]/g, '_')}.img`)
  return [
    `export ${shorten(one.name)}, ${formatSize(one.sizeBytes)}`,
    ...listeners.map(listening => `  ${clientLine(one, listening)}`),
    ...one.uris.slice(0, 1).flatMap(uri => [
      `  nbdinfo ${quote(uri)}`,
      `  qemu-img info ${quote(uri)}`,
      `  nbdcopy --progress ${quote(uri)} ${file}`,
      `  mkdir -p mnt && nbdfuse mnt/${file} ${quote(uri)}`,
    ]),
    ...one.uris.slice(1).map(uri => `  also at ${uri}`),
  ]
}

/** The whole text, with a newline at its end. */
export function readyText(options: {
  version: string, store: string, control: string, listeners: readonly Listening[], exports: readonly Attachable[],
}): string {
  const { version, store, control, listeners, exports } = options
  const more = exports.length - SHOWN_MAX
  return [
    `nbdelta ${version} serves ${count(exports.length, 'volume')} of ${store}`,
    ...exports.slice(0, SHOWN_MAX).flatMap(one => ['', ...attachLines(one, listeners)]),
    ...more > 0 ? ['', `and ${more} more: nbdelta export list --store ${quote(store)}`] : [],
    ...exports.length === 0 ? ['', `no volume yet: nbdelta volume create disk --size 1GiB --control ${quote(control)}`] : [],
    '', 'Ctrl-C or SIGTERM drains and stops.', '',
  ].join('\n')
}
