/**
 * What a mirror may ship to, each as a real server of its own: a volume of the same store, nbdkit, qemu-nbd, nbd-server, and a
 * second nbdelta. They differ in what they can promise, in whether they can grow, and in what they tell of themselves.
 */
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ServerProcess } from '../../scripts/bench/server-process.js'
import { InteropServer } from '../../scripts/interop/server.js'
import { $ } from '../../scripts/interop/tools.js'

const MIB = 2 ** 20

/** Bytes that arrived at a peer. */
export interface Arrived { readonly data: number, readonly zeros: number }

export interface Peer {
  /** As it is given to `mirror create`. */
  readonly target: string
  /** Where any client reads it. */
  readonly uri: string
  /** It can tell that it is empty. */
  readonly tellsHoles: boolean
  /** A volume of the same store: nothing is missing of what a mirror promises. */
  readonly guarded: boolean
  /** Undefined: the mirror does that itself, or it is larger from the beginning. */
  readonly grow?: (mib: number) => Promise<unknown>
  /** Counted by the peer, not by us. */
  readonly arrived?: () => Promise<Arrived>
  close(): Promise<unknown>
}

export interface PeerKind {
  readonly name: string
  readonly tools: readonly string[]
  start(source: InteropServer, mib: number): Promise<Peer>
}

const EXPORT = 'disk'

/** A server of a raw file in a folder of its own, on a unix socket there. */
async function fileServer(
  name: string, mib: number, command: (file: string, socket: string, folder: string) => readonly string[] | Promise<readonly string[]>,
): Promise<{ readonly folder: string, readonly file: string, readonly uri: string, close(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'nbdelta-peer-'))
  const [file, socket] = [join(folder, 'disk.img'), join(folder, 'nbd.sock')]
  await $`truncate -s ${mib}M ${file}`
  const { server } = await ServerProcess.start(name, await command(file, socket, folder), folder, { path: socket })
  return {
    folder, file, uri: `nbd+unix:///${name === 'nbd-server' ? EXPORT : ''}?socket=${socket}`,
    close: async () => {
      await server.stop()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** Sums up what nbdkit's log filter has seen. */
async function fromLog(path: string): Promise<Arrived> {
  const sums = { data: 0, zeros: 0 }
  for (const [, kind, count] of (await readFile(path, 'utf8')).matchAll(/ (Write|Zero|Trim) id=\d+ offset=0x[0-9a-f]+ count=0x([0-9a-f]+)/g)) {
    sums[kind === 'Write' ? 'data' : 'zeros'] += Number.parseInt(count!, 16)
  }
  return sums
}

export const PEERS: readonly PeerKind[] = [
  {
    name: 'a volume of the same store', tools: [],
    start: async source => ({
      target: 'copy', uri: source.uri('copy'), tellsHoles: true, guarded: true, close: async () => undefined,
    }),
  },
  {
    name: 'nbdkit file', tools: ['nbdkit'],
    async start(_source, mib) {
      let log = ''
      const served = await fileServer('nbdkit', mib, (file, socket, folder) =>
        ['nbdkit', '-f', '-U', socket, '--filter=log', 'file', file, `logfile=${log = join(folder, 'log')}`])
      const { uri, file, close } = served
      return {
        target: uri, uri, tellsHoles: true, guarded: false, close, grow: size => truncate(file, size * MIB), arrived: () => fromLog(log),
      }
    },
  },
  {
    // It asks for the size once: larger from the beginning.
    name: 'qemu-nbd -f raw -t', tools: ['qemu-nbd'],
    async start(_source, mib) {
      const { uri, close } = await fileServer('qemu-nbd', 2 * mib, (file, socket) => ['qemu-nbd', '-f', 'raw', '-t', '-e', '16', '-k', socket, file])
      return { target: uri, uri, tellsHoles: true, guarded: false, close }
    },
  },
  {
    name: 'nbd-server', tools: ['nbd-server'],
    async start(_source, mib) {
      const { uri, file, close } = await fileServer('nbd-server', mib, async (file, socket, folder) => {
        const config = join(folder, 'nbd-server.conf')
        await writeFile(config, `[generic]\nunixsock = ${socket}\n[${EXPORT}]\nexportname = ${file}\nflush = true\nfua = true\ntrim = true\n`)
        return ['nbd-server', '-C', config, '-p', join(folder, 'nbd-server.pid')]
      })
      return { target: uri, uri, tellsHoles: false, guarded: false, close, grow: size => truncate(file, size * MIB) }
    },
  },
  {
    name: 'an export of a second nbdelta', tools: [],
    async start(_source, mib) {
      const server = await InteropServer.start({ name: EXPORT, size: `${mib}MiB` })
      const uri = server.tcpUri(EXPORT)
      return {
        target: uri, uri, tellsHoles: true, guarded: false, close: () => server.close(),
        grow: size => server.nbdelta('volume', 'resize', EXPORT, '--size', `${size}MiB`),
      }
    },
  },
]
