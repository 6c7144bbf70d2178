/**
 * A server with the exports the tests need, in this process, on a unix socket of its own:
 *
 *   disk    8 MiB memory disk, empty              map    1 MiB with data, holes and allocated zeros (see MAP)
 *   ro      1 MiB of pattern(…, 2), read-only     odd    1,000,003 bytes: no multiple of anything
 *   gate    a GateDisk over 8 MiB: its requests wait until the test lets them go
 *   block   1 MiB whose smallest unit is 512 bytes
 *   huge    16 EiB would not fit a Number; 4 PiB, all hole
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BlockDevice } from '../../../src/device/block-device.js'
import { MemoryDisk } from '../../../src/device/memory-disk.js'
import type { ExportProvider } from '../../../src/nbd/export.js'
import type { ServerLimits } from '../../../src/nbd/limits.js'
import { createServer, type NbdServer } from '../../../src/nbd/server.js'
import { GateDisk } from './gate-disk.js'
import { attach, type AttachOptions, type Session } from './session.js'
import { Peer } from './peer.js'
import { KIB, MIB, pattern } from './wire.js'

export const DISK_BYTES = 8 * MIB
export const RO_BYTES = MIB
export const ODD_BYTES = 1_000_003
export const HUGE_BYTES = 4 * 2 ** 50
export const PAGE = 4 * KIB

/** The states of export `map`, in order: [bytes, base:allocation bits]. */
export const MAP: readonly (readonly [number, number])[] = [
  [64 * KIB, 0], [64 * KIB, 3], [4 * KIB, 0], [60 * KIB, 3], [128 * KIB, 2], [128 * KIB, 0], [576 * KIB, 3],
]

export interface Fixture {
  readonly server: NbdServer
  readonly address: { path: string }
  /** The same server on 127.0.0.1, where a connection can be reset. */
  readonly tcp: { host: string, port: number }
  readonly gate: GateDisk
  readonly disk: MemoryDisk
  peer(clientFlags?: number): Promise<Peer>
  attach(options?: AttachOptions & { tcp?: boolean }): Promise<Session>
}

interface Teardown { teardown(callback: () => unknown): unknown }

export interface FixtureOptions {
  readonly limits?: Partial<ServerLimits>
  /** Further exports, or others of the same name. */
  readonly exports?: Record<string, BlockDevice>
  /** Instead of all exports above. */
  readonly provider?: ExportProvider
  readonly directReceive?: boolean
}

function readOnlyDisk(): MemoryDisk {
  return MemoryDisk.from(pattern(0, RO_BYTES, 2)).fork({ readOnly: true })
}

export function mappedDisk(): MemoryDisk {
  const disk = new MemoryDisk(MIB)
  let at = 0
  for (const [length, state] of MAP) {
    if (state === 0) void disk.write(at, length, pattern(at, length, 3), 0)
    if (state === 2) void disk.zero(at, length, { allocate: true, fast: false })
    at += length
  }
  return disk
}

/** The bytes of export `map`. */
export function mappedContent(): Buffer { return mappedDisk().toBuffer() }

export async function startServer(t: Teardown, options: FixtureOptions = {}): Promise<Fixture> {
  const folder = mkdtempSync(join(tmpdir(), 'nbdelta-nbd-'))
  const path = join(folder, 'socket')
  const disk = new MemoryDisk(DISK_BYTES)
  const gate = new GateDisk(new MemoryDisk(DISK_BYTES))
  const exports: Record<string, BlockDevice> = {
    disk, gate, ro: readOnlyDisk(), map: mappedDisk(), odd: new MemoryDisk(ODD_BYTES),
    block: new MemoryDisk(MIB, { blockSizes: { minimum: 512 } }), huge: new MemoryDisk(HUGE_BYTES), ...options.exports,
  }
  const server = await createServer({
    exports: options.provider ?? exports, listen: [{ path }, { host: '127.0.0.1', port: 0 }],
      ...options.limits && { limits: options.limits }, directReceive: options.directReceive ?? true,
  })
  const peers: Peer[] = []
  t.teardown(async () => {
    for (const peer of peers) peer.destroy()
    gate.openAll()
    await server.close({ deadlineMs: 1000 })
    rmSync(folder, { recursive: true, force: true })
  })
  const address = { path }
  const tcp = server.addresses.find(bound => 'port' in bound)
  if (!tcp || !('port' in tcp)) throw new Error('the server does not say which port it has')
  const tcpAddress = { host: '127.0.0.1', port: tcp.port }
  return {
    server, address, tcp: tcpAddress, gate, disk,
    async peer(clientFlags) {
      const peer = await Peer.connect(address)
      peers.push(peer)
      return peer.begin(clientFlags)
    },
    async attach(attachOptions): Promise<Session> {
      const session = await attach(attachOptions?.tcp ? tcpAddress : address, attachOptions)
      peers.push(session.peer)
      return session
    },
  }
}
