// C10 C11 B14: backups with other people's tools: snapshots as exports, their bitmaps and depths, and what live says.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { $, PYTHON, ROOT, lacking, seededRandom, seedOfRun } from '../../scripts/interop/tools.js'
import { createServer, openStore } from '../../src/index.js'
import { StoreExports } from '../../src/store-exports.js'

const KIB = 1024
const MIB = 1024 * KIB
const GRAIN = 4096
const DIRTY = 'qemu:dirty-bitmap:'
const INCREMENTAL = join(ROOT, 'test', 'interop', 'incremental.py')

interface Mapped { readonly offset: number, readonly length: number, readonly type: number }
interface QemuMapped { readonly start: number, readonly length: number, readonly data: boolean }
interface Described { readonly exports: readonly { readonly 'export-name': string, readonly 'contexts'?: string[], readonly 'export-size': number }[] }

interface Teardown { teardown(callback: () => unknown): unknown }

/** A store with a volume `db` of 32 MiB, served on a socket of its own. */
async function serve(t: Teardown) {
  const dir = await mkdtemp(join(tmpdir(), 'nbdelta-bitmaps-'))
  const store = await openStore({ path: join(dir, 'store'), create: true })
  const db = await store.createVolume({ name: 'db', sizeBytes: 32 * MIB })
  const path = join(dir, 'nbd.sock')
  const server = await createServer({ exports: new StoreExports(store, () => {}), listen: { path } })
  t.teardown(async () => {
    await server.close({ deadlineMs: 1000 })
    await store.close()
    await rm(dir, { recursive: true, force: true })
  })
  return {
    db, dir,
    uri: (name: string): string => `nbd+unix:///${name}?socket=${path}`,
    snapshot: async (name: string, kind: 'snapshot' | 'bookmark' = 'snapshot'): Promise<void> => { await db.points.create({ name, kind }) },
    write: async (offset: number, length: number, byte: number): Promise<void> => { await db.write(offset, length, Buffer.alloc(length, byte), 0) },
    zero: async (offset: number, length: number): Promise<void> => { await db.trim(offset, length) },
    /** qemu's own client, told to show this context as its map. */
    qemuMap: async (name: string, context: string): Promise<QemuMapped[]> => JSON.parse((await $`qemu-img map --output=json --image-opts ${
      `driver=nbd,export=${name},server.type=unix,server.path=${path},x-dirty-bitmap=${context}`}`).stdout) as QemuMapped[],
  }
}
type Served = Awaited<ReturnType<typeof serve>>

const mapOf = async ({ uri }: Served, name: string, context: string): Promise<[number, number, number][]> => {
  const rows = JSON.parse((await $`nbdinfo --map=${context} --json ${uri(name)}`).stdout) as Mapped[]
  return rows.map(({ offset, length, type }) => [offset, length, type])
}

/** Content and points that every part below looks at. */
async function history(served: Served): Promise<void> {
  await served.write(0, MIB, 1)
  await served.write(8 * MIB, MIB, 1)
  await served.snapshot('mon')
  await served.write(MIB / 2, 64 * KIB, 2)
  await served.write(16 * MIB + 5, 10, 2)
  await served.snapshot('mark', 'bookmark')
  await served.zero(8 * MIB, 128 * KIB)
  await served.snapshot('tue')
  await served.write(24 * MIB, GRAIN, 3)
}

t.test('nbdinfo', { skip: lacking('nbdinfo') }, async t => {
  const served = await serve(t)
  await history(served)
  const { uri } = served

  t.test('L1 C3: --list and --json show snapshots and contexts', async t => {
    const { exports } = JSON.parse((await $`nbdinfo --list --json ${uri('')}`).stdout) as Described
    t.strictSame(exports.map(one => one['export-name']), ['db', 'db@tue', 'db@mon'])
    const contexts = ['base:allocation', 'qemu:allocation-depth']
    t.strictSame(exports[0]!.contexts, [...contexts, `${DIRTY}tue`, `${DIRTY}mark`, `${DIRTY}mon`])
    t.strictSame(exports[1]!.contexts, [...contexts, `${DIRTY}mark`, `${DIRTY}mon`])
    const [latest] = (JSON.parse((await $`nbdinfo --json ${uri('db@latest')}`).stdout) as Described).exports
    t.strictSame(latest!.contexts, exports[1]!.contexts)
    t.not((await $({ nothrow: true })`nbdinfo --can multi-conn ${uri('db@latest')}`).exitCode, 0, 'D3')
    t.equal((await $({ nothrow: true })`nbdinfo --is read-only ${uri('db@tue')}`).exitCode, 0)
  })

  t.test('C10: --map of a bitmap', async t => {
    t.strictSame(await mapOf(served, 'db@tue', `${DIRTY}mon`), [
      [0, MIB / 2, 0], [MIB / 2, 64 * KIB, 1], [MIB / 2 + 64 * KIB, 7.5 * MIB - 64 * KIB, 0], [8 * MIB, 128 * KIB, 1],
      [8 * MIB + 128 * KIB, 8 * MIB - 128 * KIB, 0], [16 * MIB, GRAIN, 1], [16 * MIB + GRAIN, 16 * MIB - GRAIN, 0],
    ])
    t.strictSame(await mapOf(served, 'db@tue', `${DIRTY}mark`),
      [[0, 8 * MIB, 0], [8 * MIB, 128 * KIB, 1], [8 * MIB + 128 * KIB, 24 * MIB - 128 * KIB, 0]])
    t.strictSame(await mapOf(served, 'db', `${DIRTY}tue`), [[0, 24 * MIB, 0], [24 * MIB, GRAIN, 1], [24 * MIB + GRAIN, 8 * MIB - GRAIN, 0]])
  })

  t.test('C10: --map of the depth: data somewhere exactly where base:allocation says so', async t => {
    for (const name of ['db', 'db@tue', 'db@mon']) {
      const places = (rows: [number, number, number][], counts: (type: number) => boolean): number =>
        rows.reduce((sum, [, length, type]) => sum + (counts(type) ? length : 0), 0)
      const depths = await mapOf(served, name, 'qemu:allocation-depth')
      t.equal(places(depths, type => type > 0), places(await mapOf(served, name, 'base:allocation'), type => (type & 1) === 0), name)
    }
  })
})

t.test('qemu-img', { skip: lacking('qemu-img') }, async t => {
  const served = await serve(t)
  await history(served)
  const { uri, dir, qemuMap } = served

  t.test('C10: map with x-dirty-bitmap: what is dirty it shows as no data', async t => {
    const dirty = (await qemuMap('db@tue', `${DIRTY}mon`)).filter(({ data }) => !data).map(({ start, length }) => [start, length])
    t.strictSame(dirty, [[MIB / 2, 64 * KIB], [8 * MIB, 128 * KIB], [16 * MIB, GRAIN]])
    await t.rejects(qemuMap('db@tue', `${DIRTY}tue`), /Could not open image/, 'a bitmap that is not there is an error')
  })

  t.test('convert of a snapshot, and of the latest, while live goes on', async t => {
    await $`qemu-img convert -f raw -O raw ${uri('db@tue')} ${join(dir, 'tue')}`
    await served.write(0, 16 * MIB, 7)
    t.match((await $`qemu-img compare -f raw -F raw ${join(dir, 'tue')} ${uri('db@latest')}`).stdout, /Images are identical/)
    t.not((await $({ nothrow: true })`qemu-img compare -f raw -F raw ${join(dir, 'tue')} ${uri('db')}`).exitCode, 0)
  })
})

const skip = lacking('nbdcopy', 'cmp', PYTHON)
t.test('nbdcopy and libnbd: a full copy, then increments under writes', { skip }, async t => {
  const seed = seedOfRun()
  t.comment(`seed ${seed}`)
  const random = seededRandom(seed)
  const below = (limit: number): number => Math.floor(random() * limit)
  const served = await serve(t)
  const { uri, dir, db, write, zero, snapshot } = served
  const [backup, whole] = [join(dir, 'backup'), join(dir, 'whole')]
  await write(0, 20 * MIB, 1)
  await snapshot('p0')
  await $`nbdcopy ${uri('db@p0')} ${backup}`

  let busy = true
  const writing = (async () => {
    for (let i = 0; busy; i++) {
      const length = 1 + below(3 * GRAIN)
      const offset = below(db.sizeBytes - length)
      await (i % 5 === 0 ? zero(offset, length) : write(offset, length, i % 256))
      await new Promise(resolve => { setTimeout(resolve, 2) })
    }
  })()
  for (let round = 1; round <= 6; round++) {
    await snapshot(`mark${round}`, 'bookmark')
    await new Promise(resolve => { setTimeout(resolve, 50) })
    await snapshot(`p${round}`)
    const context = `${DIRTY}p${round - 1}`
    const map = await mapOf(served, `db@p${round}`, context)
    const dirtyBytes = map.reduce((sum, [, length, type]) => sum + type * length, 0)
    const copied = Number((await $`${PYTHON} ${INCREMENTAL} ${uri(`db@p${round}`)} ${context} ${backup}`).stdout)
    t.equal(copied, dirtyBytes, 'bytes copied are the bytes changed')
    t.ok(copied > 0 && copied < db.sizeBytes, `${copied} of ${db.sizeBytes}`)
    await $`rm -f ${whole} && nbdcopy ${uri(`db@p${round}`)} ${whole}`
    await t.resolves($`cmp ${backup} ${whole}`, `increment ${round} makes the copy equal`)
  }
  busy = false
  await writing
  await $`${PYTHON} ${INCREMENTAL} ${uri('db')} ${DIRTY}p6 ${backup}`
  await $`rm -f ${whole} && nbdcopy ${uri('db')} ${whole}`
  await t.resolves($`cmp ${backup} ${whole}`, 'live at rest: its bitmap is as good')
})
