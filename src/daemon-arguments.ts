/**
 * Arguments of `serve`, judged before anything is made or opened: nobody is left with a store that he mistyped.
 *
 * Where a store would be made, the places to listen on are tried first; one that is there is locked first, so that a second
 * server is told so. What only the state of things can refuse comes later: a store that somebody has, a disk without room, a
 * place that somebody takes between the trial and the start.
 */
import { stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { judgeSocketPath, parseAddress, parseCreation, shorten } from './control/options.js'
import { tryControlSocket } from './control/server.js'
import { NbdeltaError, isStoreFile, judgeNewVolume, openListener, readSecret } from './index.js'
import type { ServeArguments } from './control/commands.js'
import type { Address } from './control/options.js'

const CONTROL_SOCKET = 'control.sock'
const NBD_SOCKET = 'nbd.sock'

export interface ServeOptions extends ServeArguments {
  readonly store: string
  readonly control: string | undefined
  readonly json: boolean
  readonly version: string
}

interface Judged {
  readonly storeAt: string
  readonly listen: readonly (Address & { readonly mode?: number })[]
  readonly peer: { readonly listen: Address, readonly secretFile: string } | undefined
  readonly controlAt: string
  readonly volumes: readonly { readonly name: string, readonly sizeBytes: number }[]
}

/** Paths become absolute. Errors: bad-argument, too-large, not-found, denied (the secret). */
export async function judgeArguments(options: ServeOptions): Promise<Judged> {
  const { store, control, nbd, nbdMode, createVolume = [] } = options
  const mode = parseInt(nbdMode, 8)
  const place = (address: Address): Promise<Address> => judgePlace(address, store)
  const addresses = nbd?.map(parseAddress) ?? [{ path: join(store, NBD_SOCKET) }]
  const listen = await Promise.all(addresses.map(async address => ({ ...await place(address), mode })))
  const controlAt = resolve(control ?? join(store, CONTROL_SOCKET))
  await place({ path: controlAt })
  const peer = await judgePeer(options, place)
  refuseTwice([...listen, ...peer ? [peer.listen] : [], { path: controlAt }])
  return { storeAt: resolve(store), listen, peer, controlAt, volumes: judgeCreations(createVolume) }
}

async function judgePeer(
  { peer, peerSecret }: ServeOptions, place: (address: Address) => Promise<Address>,
): Promise<Judged['peer']> {
  if (peer === undefined && peerSecret === undefined) return undefined
  if (peer === undefined || peerSecret === undefined) {
    throw new NbdeltaError('bad-argument', '--peer and --peer-secret go together', { hint: 'peers prove that they know it' })
  }
  const secretFile = resolve(peerSecret)
  await readSecret(secretFile)
  return { listen: await place(parseAddress(peer)), secretFile }
}

function judgeCreations(texts: readonly string[]): Judged['volumes'] {
  const volumes = new Map<string, { name: string, sizeBytes: number }>()
  for (const text of texts) {
    const wanted = parseCreation(text)
    try {
      judgeNewVolume(wanted)
    } catch (error) {
      if (!(error instanceof NbdeltaError)) throw error
      const { code, message, hint } = error
      throw new NbdeltaError(code, `--create-volume ${shorten(text)}: ${message}`, { hint, cause: error })
    }
    const { name, sizeBytes } = volumes.get(wanted.name) ?? wanted
    if (sizeBytes !== wanted.sizeBytes) {
      throw new NbdeltaError('bad-argument', `--create-volume names ${name} twice, with two sizes`)
    }
    volumes.set(name, wanted)
  }
  return [...volumes.values()]
}

/** A socket's path is made absolute and must fit, its folder be there; the store's own may only be about to be made. */
async function judgePlace(address: Address, store: string): Promise<Address> {
  if (!('path' in address)) return address
  const path = resolve(address.path)
  judgeSocketPath(path)
  const storeAt = resolve(store)
  if (path === storeAt) throw new NbdeltaError('bad-argument', `cannot make the socket ${path}: that is the store itself`)
  if (dirname(path) !== storeAt) await assertFolder(path)
  else if (isStoreFile(basename(path))) {
    throw new NbdeltaError('bad-argument', `cannot make the socket ${path}: that name is one of the store's own`)
  }
  return { path }
}

/** Of ports the system tells. */
function refuseTwice(addresses: readonly Address[]): void {
  const paths = addresses.flatMap(address => 'path' in address ? [address.path] : [])
  const twice = paths.find((path, index) => paths.indexOf(path) < index)
  if (twice !== undefined) throw new NbdeltaError('bad-argument', `cannot make the socket ${twice} twice`)
}

/**
 * Listens at every place at once, for a moment; nothing stays. A folder in which a store may be made holds no socket yet, so that
 * nothing is tried there. Errors: busy, exists, denied, io.
 */
export async function tryPlaces({ storeAt, listen, peer, controlAt }: Judged): Promise<void> {
  const isElsewhere = (address: Address): boolean => !('path' in address) || dirname(address.path) !== storeAt
  const taken: { close(): Promise<void> }[] = []
  try {
    for (const address of [...listen, ...peer ? [peer.listen] : []].filter(isElsewhere)) {
      taken.push(await openListener(address, socket => { socket.destroy() }, () => {}))
    }
    if (isElsewhere({ path: controlAt })) taken.push(await tryControlSocket(controlAt))
  } finally {
    await Promise.all(taken.map(place => place.close()))
  }
}

/** bind(2) calls a missing folder "permission denied"; here it is called by its name. */
async function assertFolder(path: string): Promise<void> {
  const found = await stat(dirname(path)).catch(() => undefined)
  if (!found?.isDirectory()) {
    throw new NbdeltaError('not-found', `cannot make the socket ${path}: there is no folder ${dirname(path)}`)
  }
}
