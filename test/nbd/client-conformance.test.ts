// The client as a BlockDevice: the suite of every device, over our own server, in each reply style and with several sockets.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { blockDeviceConformance, MemoryDisk } from '../../src/device/testing.js'
import type { BlockDevice } from '../../src/device/block-device.js'
import { openNbdClient, type NbdClientDevice } from '../../src/nbd/client-device.js'
import type { NbdClientOptions } from '../../src/nbd/client-options.js'
import { createServer, type NbdServer } from '../../src/nbd/server.js'

const seed = Number(process.env['SEED'] ?? 1)
const dir = mkdtempSync(join(tmpdir(), 'nbdelta-client-'))
const servers: NbdServer[] = []
t.teardown(async () => {
  for (const server of servers) await server.close({ deadlineMs: 1000 })
  rmSync(dir, { recursive: true, force: true })
})

/** Each device has a server of its own. */
async function remote(disk: BlockDevice, options: NbdClientOptions): Promise<NbdClientDevice> {
  const path = join(dir, `s${servers.length}`)
  servers.push(await createServer({ exports: { disk }, listen: [{ path }] }))
  return openNbdClient({ address: { path }, exportName: 'disk', ...options })
}

for (const replyStyle of ['extended', 'structured', 'simple'] as const) {
  t.test(replyStyle, t => blockDeviceConformance(t, replyStyle,
    size => remote(new MemoryDisk(size), { replyStyle }), { seed, requests: 600 }))
}
t.test('four connections, little memory', t => blockDeviceConformance(t, 'four',
  size => remote(new MemoryDisk(size), { connections: 4, inFlightBytes: 100_000 }), { seed, requests: 600 }))
for (const minimum of [512, 4096]) {
  t.test(`a peer of ${minimum}-byte blocks`, t => blockDeviceConformance(t, `blocks of ${minimum}`,
    size => remote(new MemoryDisk(size, { blockSizes: { minimum } }), {}), { seed, requests: 600 }))
}
t.test('a peer that takes 64 KiB at once', t => blockDeviceConformance(t, 'split',
  size => remote(new MemoryDisk(size, { blockSizes: { maximum: 65_536 } }), {}), { seed, requests: 600 }))
