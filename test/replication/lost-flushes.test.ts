// A flush of the target fails, and to its kernel what it was to write is clean: read as if it were there, until the power fails there.
// What a later cycle finds equal it writes all the same, before it says that it is durable (S2, D7).
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import { MemoryDisk } from '../../src/device/testing.js'
import { digestsOf } from '../../src/replication/content-roots.js'
import { portionsOf } from '../../src/replication/content-digest.js'
import { takeAlike } from '../../src/replication/recall.js'
import { fill, G, Lab, shown, URI, Wire } from './lab.js'

const GRAINS = 8

/** A server of a disk with a page cache. */
class CachedServer extends Wire {
  failing = false
  readonly #durable: MemoryDisk
  #dirty: { readonly offset: number, readonly length: number }[] = []

  constructor() {
    super(new MemoryDisk(GRAINS * G))
    this.#durable = new MemoryDisk(GRAINS * G)
    this.onRequest = (kind, offset, length) => {
      if (kind === 'write' || kind === 'zero') this.#dirty.push({ offset, length })
      if (kind === 'flush') this.#sync()
    }
  }

  #sync(): void {
    const lost = this.failing
    for (const { offset, length } of this.#dirty.splice(0)) {
      const bytes = Buffer.alloc(length)
      void this.disk.read(offset, length, bytes, 0)
      if (!lost) void this.#durable.write(offset, length, bytes, 0)
    }
    if (lost) throw new NbdeltaError('io', 'EIO: i/o error, fdatasync')
  }

  afterCut(): Promise<number[]> { return shown(this.#durable) }
}

t.test('what a failed flush was to cover is written again', async t => {
  const lab = await Lab.open(t.testdir())
  const source = await lab.volume('v', GRAINS)
  await fill(source, 0, 1, GRAINS)
  const server = lab.wire = new CachedServer()
  server.failing = true
  const options = { name: 'm', volume: 'v', target: URI, intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, overwrite: true }
  const mirror = await lab.mirrors.create(options)
  await t.rejects(mirror.sync(), { code: 'io' })
  server.failing = false
  await lab.mirrors.stop()
  // Both servers are started anew in between.
  const again = await lab.killed()
  await again.mirrors.get('m').sync()
  t.same(await server.afterCut(), Array(GRAINS).fill(1), 'behind a power cut')
  t.notOk(again.mirrors.get('m').state.doubtful, 'it is in no doubt any more')
  server.reset()
  await again.mirrors.get('m').beginResync({ whole: true })
  await again.mirrors.get('m').sync()
  t.equal(server.counts.writtenBytes, 0, 'what is durable and equal is not written')
  await again.close()
  await lab.store.close()
})

t.test('so is what a copy at the target has', async t => {
  const copy = new MemoryDisk(GRAINS * G)
  await fill(copy, 0, 1, GRAINS)
  const volume = new Wire(new MemoryDisk(GRAINS * G))
  await fill(volume.disk, 0, 1, GRAINS)
  const portions = []
  for (const portion of portionsOf([{ start: 0, end: GRAINS * G }], 2 ** 20)) {
    for await (const { digest } of digestsOf(copy, [portion])) portions.push({ ...portion, digest })
  }
  t.same(await takeAlike(copy, volume, { point: 'p', regionBytes: 2 ** 20, portions }), [true])
  t.equal(volume.counts.writtenBytes, GRAINS * G)
})
