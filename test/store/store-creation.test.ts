// Making a store: interrupted after any step, or found in any half-made layout, it leaves no store, and making it again leaves
// a whole one. store.id comes last, and after everything is durable.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { encodeRecord, recordSizeBytes } from '../../native-free/index.js'
import { creationSteps, encodeIdentity, FILES, STORE_MAGIC, STORE_VERSION } from '../../src/store/store-creation.js'
import { openStoreDirectory } from '../../src/store/store-directory.js'

t.setTimeout(120_000)
const root = mkdtempSync(join(tmpdir(), 'nbdelta-store-'))
t.teardown(() => rmSync(root, { recursive: true, force: true }))
let count = 0
const freshPath = (): string => join(root, `${count++}`)
const IDENTITY = { uuid: '01234567-89ab-4cde-8f01-23456789abcd', createdAt: '2026-01-02T03:04:05.000Z' }

// The lock has a test of its own; this one is taken without starting a process, and many are.
const QUICK = { flockTool: '/nonexistent/flock' }

async function isWhole(path: string): Promise<boolean> {
  const store = await openStoreDirectory({ path, ...QUICK })
  await store.close()
  return store.recovery.length === 0 && store.catalog.list().length === 0
}

t.test('a new store has the layout, and nobody else may look into it', async t => {
  const path = freshPath()
  const store = await openStoreDirectory({ path, create: true, newUuid: () => IDENTITY.uuid })
  t.equal(store.uuid, IDENTITY.uuid)
  await store.close()
  t.strictSame(readdirSync(path).sort(), ['catalog.log', 'points.log', 'store.id', 'store.lock', 'volumes'])
  t.equal(statSync(path).mode & 0o777, 0o700)
  for (const file of ['catalog.log', 'store.id', 'store.lock']) t.equal(statSync(join(path, file)).mode & 0o077, 0, file)
  t.ok(await isWhole(path))
})

t.test('D6: interrupted after any step it is no store; made again it is whole', async t => {
  const steps = creationSteps('/nowhere', IDENTITY).map(step => step.name)
  for (let done = 0; done <= steps.length; done++) {
    const path = freshPath()
    mkdirSync(path)
    for (const step of creationSteps(path, IDENTITY).slice(0, done)) await step.run()
    const named = done > steps.indexOf('name identity')
    const when = `after '${steps[done - 1]}'`
    if (named) t.ok(await isWhole(path), when)
    else await t.rejects(openStoreDirectory({ path }), { code: 'not-found', message: /is not a store/ }, when)
    const store = await openStoreDirectory({ path, create: true })
    t.equal(store.uuid === IDENTITY.uuid, named)
    await store.close()
    t.ok(await isWhole(path))
  }
})

t.test('the order of the steps: everything durable before the name, the name durable before anything is promised', async t => {
  const steps = creationSteps('/nowhere', IDENTITY).map(step => step.name)
  t.strictSame(steps, ['make volumes', 'remove old catalog', 'make catalog', 'write identity', 'sync folder', 'sync parent',
    'name identity', 'sync identity'])
})

t.test('D6: a power cut before the name leaves any part of the layout; making it again makes a store of each', async t => {
  const junk = Buffer.alloc(5000, 0x5a)
  const parts: [string, (path: string) => void][] = [
    ['lock', path => writeFileSync(join(path, FILES.lock), '')],
    ['volumes', path => mkdirSync(join(path, FILES.volumes))],
    ['empty catalog', path => writeFileSync(join(path, FILES.catalog), '')],
    ['junk in the catalog', path => writeFileSync(join(path, FILES.catalog), junk)],
    ['torn identity', path => writeFileSync(join(path, FILES.identityDraft), encodeIdentity(IDENTITY).subarray(0, 40))],
    ['whole identity', path => writeFileSync(join(path, FILES.identityDraft), encodeIdentity(IDENTITY))],
  ]
  for (let mask = 0; mask < 2 ** parts.length; mask++) {
    const path = freshPath()
    mkdirSync(path)
    parts.forEach(([, make], i) => { if (mask & 1 << i) make(path) })
    await t.rejects(openStoreDirectory({ path }), { code: 'not-found' })
    await (await openStoreDirectory({ path, create: true, ...QUICK })).close()
    if (!await isWhole(path)) t.fail(parts.filter((_, i) => mask & 1 << i).map(([name]) => name).join())
    rmSync(path, { recursive: true })
  }
})

t.test('a folder with somebody\'s files is left alone', async t => {
  const path = freshPath()
  mkdirSync(path)
  writeFileSync(join(path, 'thesis.tex'), 'x')
  const message = /not empty: it holds 'thesis\.tex'/
  await t.rejects(openStoreDirectory({ path, create: true }), { code: 'bad-argument', message })
  t.strictSame(readdirSync(path), ['thesis.tex'])
})

t.test('volumes without a store.id are never made anew', async t => {
  const path = freshPath()
  await (await openStoreDirectory({ path, create: true })).close()
  mkdirSync(join(path, 'volumes', IDENTITY.uuid))
  rmSync(join(path, 'store.id'))
  const before = readFileSync(join(path, 'catalog.log'))
  await t.rejects(openStoreDirectory({ path, create: true }), { code: 'damaged', message: /holds 1 volume but no store\.id/ })
  t.ok(readFileSync(join(path, 'catalog.log')).equals(before))
})

t.test('a newer format is refused, a damaged store.id is named, and neither is touched', async t => {
  const path = freshPath()
  await (await openStoreDirectory({ path, create: true })).close()
  const file = join(path, 'store.id')
  const good = readFileSync(file)
  const newer = Buffer.alloc(recordSizeBytes(2))
  encodeRecord({ magic: STORE_MAGIC, version: STORE_VERSION + 6, owner: Buffer.alloc(16), address: 0 },
    { type: 1, epoch: 0, sequence: 0, durableSequence: 0 }, Buffer.from('{}'), newer, 0)
  writeFileSync(file, newer)
  const message = `${path} is a store of format ${STORE_VERSION + 6}; this version knows formats up to ${STORE_VERSION}`
  await t.rejects(openStoreDirectory({ path, create: true }), { code: 'newer-format', message, hint: /use the version/ })
  t.ok(readFileSync(file).equals(newer))
  for (let offset = 0; offset < good.length; offset++) {
    const bad = Buffer.from(good)
    bad[offset] ^= 1 << offset % 8
    writeFileSync(file, bad)
    await openStoreDirectory({ path }).then(() => t.fail(`byte ${offset} passed`), (error: { code: string, message: string }) => {
      if (error.code !== 'damaged' || !error.message.includes('store.id')) t.fail(error.message)
    })
  }
  for (const bad of [Buffer.alloc(0), good.subarray(0, 70), Buffer.alloc(9999), Buffer.concat([good, good])]) {
    writeFileSync(file, bad)
    const opening = openStoreDirectory({ path })
    if (bad.length === 2 * good.length) await (await opening).close()
    else await t.rejects(opening, { code: 'damaged' }, `${bad.length} bytes`)
  }
  writeFileSync(file, good)
  t.ok(await isWhole(path))
})
