/**
 * The servers that are compared, each as the command a careful operator would type, all over the same raw file.
 */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { $ } from '../zx.js'
import { openStore, type StoreVolume } from '../../src/index.js'
import { ServerProcess } from './server-process.js'
import type { Started } from './server-process.js'
import type { Workload } from './workloads.js'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
/** NBDELTA names another launcher to measure: an older build, an installed package. */
const LAUNCHER = process.env['NBDELTA'] ?? join(ROOT, 'bin', 'nbdelta.cjs')
const BARE_SERVER = join(ROOT, 'dist', 'scripts', 'bench', 'bare-server.js')
/** Name of the export or volume where the server has names. */
export const EXPORT = 'bench'

/** Where one side works. */
export interface Place {
  readonly directory: string
  readonly file: string
  readonly socket: string
  readonly port: number
}

export interface Side {
  readonly name: string
  readonly exportName: string
  /** Asked for its version in the report. */
  readonly version: readonly string[]
  command(place: Place, transport: Workload['transport']): string[]
  /** Once for each file, before the first start. */
  prepare?(place: Place): Promise<void>
}

const nbdelta: Side = {
  name: 'nbdelta',
  exportName: EXPORT,
  version: [process.execPath, LAUNCHER, 'version'],
  command: (place, transport) =>
    serveCommand(storeOf(place), transport === 'unix' ? `unix:${place.socket}` : `tcp:127.0.0.1:${place.port}`),
  async prepare(place) {
    if (existsSync(storeOf(place))) return
    const { server } = await serveStore(place, storeOf(place))
    try {
      await nbdeltaCommand(storeOf(place), 'volume', 'create', EXPORT, '--backing', place.file)
    } finally { await server.stop() }
  },
}

const nbdkit: Side = {
  name: 'nbdkit',
  exportName: '',
  version: ['nbdkit', '--version'],
  command: (place, transport) => ['nbdkit', '-f',
    ...(transport === 'unix' ? ['-U', place.socket] : ['-i', '127.0.0.1', '-p', String(place.port)]), 'file', place.file],
}

const qemuNbd: Side = {
  name: 'qemu-nbd',
  exportName: '',
  version: ['qemu-nbd', '--version'],
  command: (place, transport) => ['qemu-nbd', '-t',
    ...(transport === 'unix' ? ['-k', place.socket] : ['-b', '127.0.0.1', '-p', String(place.port)]),
    '-f', 'raw', '--cache=writeback', '-e', '8', place.file],
}

/** With -d it serves a single connection and ends, so it runs as the daemon it is. */
const nbdServer: Side = {
  name: 'nbd-server',
  exportName: EXPORT,
  version: ['nbd-server', '--version'],
  command(place, transport) {
    const config = join(place.directory, 'nbd-server.conf')
    const unix = transport === 'unix' ? `unixsock = ${place.socket}\n` : ''
    const generic = `[generic]\n${unix}listenaddr = 127.0.0.1\nport = ${place.port}\n`
    writeFileSync(config, `${generic}[${EXPORT}]\nexportname = ${place.file}\n`)
    return ['nbd-server', '-C', config, '-p', join(place.directory, 'nbd-server.pid')]
  },
}

/** What plain Node costs on this machine; no peer, and of no goal. */
const bare: Side = {
  name: 'bare',
  exportName: '',
  version: [process.execPath, '--version'],
  command: (place, transport) =>
    [process.execPath, BARE_SERVER, place.file, transport === 'unix' ? place.socket : String(place.port)],
}

const PEERS: readonly Side[] = [nbdkit, qemuNbd, nbdServer]
const SIDES: readonly Side[] = [nbdelta, ...PEERS, bare]
export const BARE = bare.name
export const peerNames = (): string[] => PEERS.map(side => side.name)
/** All that can be measured, nbdelta first. */
export const sideNames = (): string[] => SIDES.map(side => side.name)

export function sideOf(name: string): Side {
  const side = SIDES.find(side => side.name === name)
  if (!side) throw new Error(`no side '${name}'; there are ${sideNames().join(', ')}`)
  return side
}

/** nbdelta over any store, on the place's unix socket. */
export function serveStore(place: Place, store: string): Promise<Started> {
  return ServerProcess.start('nbdelta', serveCommand(store, `unix:${place.socket}`), place.directory, { path: place.socket })
}

/** Work through the library on a new volume in a store of its own, in place of what was there. */
export async function onVolume<T>(
  path: string, options: { readonly sizeBytes?: number, readonly backing?: string }, work: (volume: StoreVolume) => Promise<T>,
): Promise<T> {
  rmSync(path, { recursive: true, force: true })
  const store = await openStore({ path, create: true })
  try {
    return await work(await store.createVolume({ name: EXPORT, ...options }))
  } finally { await store.close() }
}

/** What an nbdelta command prints. */
export async function nbdeltaCommand(store: string, ...args: string[]): Promise<string> {
  return (await $`${process.execPath} ${LAUNCHER} ${args} --store ${store}`.quiet()).stdout
}

function serveCommand(store: string, nbd: string): string[] {
  return [process.execPath, LAUNCHER, 'serve', '--store', store, '--nbd', nbd, '--log-level', 'warn']
}

/** A store for each file that is served. */
export function storeOf(place: Place): string {
  return join(place.directory, `store-${basename(place.file)}`)
}

export function uriOf(side: Side, place: Place, transport: Workload['transport']): string {
  if (transport === 'unix') return `nbd+unix:///${side.exportName}?socket=${place.socket}`
  return `nbd://127.0.0.1:${place.port}/${side.exportName}`
}

/** Starts a side, fresh. */
export async function startSide(side: Side, place: Place, transport: Workload['transport']): Promise<ServerProcess> {
  mkdirSync(place.directory, { recursive: true })
  await side.prepare?.(place)
  const at = transport === 'unix' ? { path: place.socket } : { host: '127.0.0.1', port: place.port }
  return (await ServerProcess.start(side.name, side.command(place, transport), place.directory, at)).server
}
