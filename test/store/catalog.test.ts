// The catalog: what may stand in it, what conflicts, that changes are durable and all or nothing, its limits, and what of a
// damaged one is said.
import t from 'tap'
import type { MemoryDisk } from '../../src/device/memory-disk.js'
import { MemoryDisk as Memory } from '../../src/device/memory-disk.js'
import {
  Catalog, CATALOG_BYTES, CATALOG_MAGIC, judgeEntry, judgeName, openCatalog, VOLUME_BYTES_MAX, VOLUMES_MAX, type CatalogEntry,
} from '../../src/store/catalog.js'
import { formatRecordLog, openRecordLog } from '../../src/store/open-record-log.js'

const OWNER = Buffer.from('0123456789abcdef')
const IDENTITY = { magic: CATALOG_MAGIC, owner: OWNER, name: 'catalog.log' }

function uuid(n: number): string { return `00000000-0000-4000-8000-${n.toString(16).padStart(12, '0')}` }
function entry(n: number, more: Partial<CatalogEntry> = {}): CatalogEntry {
  return {
    uuid: uuid(n), name: `v${n}`, sizeBytes: 2 ** 30, grainBytes: 4096, backing: null,
    createdAt: '2026-01-02T03:04:05.678Z', description: '', ...more,
  }
}

async function fresh(bytes = 64 * 1024): Promise<MemoryDisk> {
  const disk = new Memory(bytes)
  await formatRecordLog(disk, IDENTITY)
  return disk
}
async function open(disk: MemoryDisk): Promise<Catalog> { return (await openCatalog(disk, OWNER, 'catalog.log')).catalog }

t.test('names', async t => {
  for (const name of ['a', 'Z', '0', '_x', 'db-1.img', 'x'.repeat(128), 'a.b.c', 'A_b-C.9']) t.equal(judgeName(name), name)
  const bad: [string, RegExp][] = [
    ['', /empty/], ['x'.repeat(129), /at most 128/], ['-a', /start/], ['.a', /start/], ['..', /start/], ['a/b', /consists/],
    ['a b', /consists/],
    ['a@b', /consists/], ['ä', /consists/], ['a\n', /consists/], ['a\0', /consists/], ['a:b', /consists/],
  ]
  for (const [name, message] of bad) t.throws(() => judgeName(name), { code: 'bad-argument', message }, JSON.stringify(name))
})

t.test('sizes, grains and the rest', async t => {
  const good: Partial<CatalogEntry>[] = [
    { sizeBytes: 512 }, { sizeBytes: VOLUME_BYTES_MAX }, { grainBytes: 2 ** 20 }, { backing: '/dev/sdb' },
    { backing: 'nbd://host/x' }, { backing: 'nbd+unix:///x?socket=/a%20b' },
    { description: 'ü'.repeat(1000) },
  ]
  for (const more of good) t.match(judgeEntry(entry(1, more)), more)
  t.equal(VOLUME_BYTES_MAX, 2 ** 53 - 512)
  const bad: [Record<string, unknown>, RegExp][] = [
    [{ sizeBytes: 0 }, /sizeBytes: .*at least 512/], [{ sizeBytes: 513 }, /multiple of 512/], [{ sizeBytes: -512 }, /at least/],
    [{ sizeBytes: 2 ** 53 }, /sizeBytes/], [{ sizeBytes: 512.5 }, /sizeBytes/], [{ sizeBytes: '512' }, /sizeBytes/],
    [{ sizeBytes: NaN }, /sizeBytes/],
    [{ grainBytes: 2048 }, /at least 4096/], [{ grainBytes: 2 ** 21 }, /at most/], [{ grainBytes: 12288 }, /power of two/],
    [{ uuid: 'x' }, /uuid/], [{ uuid: uuid(1).toUpperCase().replace('0', 'A') }, /uuid/], [{ backing: 'relative' }, /absolute/],
    [{ backing: '/a\nb' }, /control/], [{ backing: 'nbd:x' }, /absolute/], [{ backing: 'nbd://a\nb' }, /control/],
    [{ createdAt: 'yesterday' }, /createdAt/],
    [{ description: 'x'.repeat(1001) }, /at most 1000/],
    [{ description: 'a\u0007' }, /control/], [{ extra: 1 }, /extra/], [{ name: undefined }, /name/],
  ]
  for (const [more, message] of bad) {
    t.throws(() => judgeEntry({ ...entry(1), ...more }), { code: 'bad-argument', message }, JSON.stringify(more))
  }
})

t.test('D6: what is put is there after reopening, what is removed is not; both may be repeated', async t => {
  const disk = await fresh()
  const catalog = await open(disk)
  await catalog.put(entry(2))
  await catalog.put(entry(1, { backing: '/dev/sdb' }))
  await catalog.put(entry(1, { backing: '/dev/sdb' }))
  await catalog.put(entry(2, { sizeBytes: 2 ** 31 }))
  await catalog.put(entry(3))
  await catalog.remove('v3')
  await catalog.remove('v3')
  await catalog.close()
  const again = await open(disk)
  t.strictSame(again.list(), [entry(1, { backing: '/dev/sdb' }), entry(2, { sizeBytes: 2 ** 31 })])
  t.strictSame(again.get('v2'), entry(2, { sizeBytes: 2 ** 31 }))
  t.equal(again.get('v3'), undefined)
  t.ok(again.has(uuid(1)) && !again.has(uuid(3)))
})

t.test('a repeated put or remove writes nothing', async t => {
  const disk = await fresh()
  const catalog = await open(disk)
  await catalog.put(entry(1))
  const before = disk.toBuffer()
  await catalog.put(entry(1))
  await catalog.remove('nobody')
  t.ok(disk.toBuffer().equals(before))
})

t.test('conflicts', async t => {
  const catalog = await open(await fresh())
  await catalog.put(entry(1, { backing: '/dev/sdb' }))
  await t.rejects(catalog.put(entry(2, { name: 'v1' })), { code: 'exists', message: /'v1' already/ })
  await t.rejects(catalog.put(entry(2, { backing: '/dev/sdb' })), { code: 'exists', message: /backing of volume 'v1'/ })
  t.throws(() => catalog.judge(entry(2, { name: 'v1' })), { code: 'exists' })
  await catalog.put(entry(1, { name: 'renamed' }))
  t.strictSame(catalog.list().map(({ name }) => name), ['renamed'])
  await catalog.put(entry(2, { name: 'v1' }))
})

t.test('concurrent changes run one after the other: of two of one name, one wins', async t => {
  const disk = await fresh()
  const catalog = await open(disk)
  const outcomes = await Promise.allSettled([1, 2, 3].map(n => catalog.put(entry(n, { name: 'same' }))))
  t.strictSame(outcomes.map(({ status }) => status), ['fulfilled', 'rejected', 'rejected'])
  t.strictSame((await open(disk)).list(), [entry(1, { name: 'same' })])
})

t.test('a full log is rewritten with the change in it', async t => {
  const disk = await fresh()
  const catalog = await open(disk)
  for (let i = 0; i < 500; i++) await catalog.put(entry(1, { description: `turn ${i}` }))
  t.strictSame((await open(disk)).list(), [entry(1, { description: 'turn 499' })])
})

t.test('as many volumes as there may be fit, and one more is refused', async t => {
  const disk = await fresh(CATALOG_BYTES)
  const catalog = await open(disk)
  const usual = (n: number, turn = 0): CatalogEntry =>
    entry(n, { backing: `/dev/disk/by-id/${`${n}`.padStart(250, 'x')}`, description: `${turn}`.repeat(400) })
  for (let n = 1; n <= VOLUMES_MAX; n++) await catalog.put(usual(n))
  await t.rejects(catalog.put(entry(VOLUMES_MAX + 1)), { code: 'no-space', message: /1000 volumes/ })
  // Fill the log over, so that a snapshot of everything is written.
  for (let turn = 0; turn < 2000; turn++) await catalog.put(usual(1 + turn % 50, turn % 7))
  const again = await open(disk)
  t.strictSame(again.list(), catalog.list())
  t.equal(again.list().length, VOLUMES_MAX)
})

t.test('the longest entries: each has a limit, and all together', async t => {
  const disk = await fresh(CATALOG_BYTES)
  const catalog = await open(disk)
  const largest = (n: number): CatalogEntry => {
    const rest = 4096 - 64 - Buffer.byteLength(JSON.stringify(entry(n, { backing: '/', description: 'ü'.repeat(1000) })))
    return entry(n, { backing: '/' + n.toString().padStart(rest, 'x'), description: 'ü'.repeat(1000) })
  }
  await t.rejects(catalog.put({ ...largest(1), backing: largest(1).backing + 'x' }), { code: 'too-large' })
  let n = 0
  const filling = (async () => { for (;;) await catalog.put(largest(++n)) })()
  await t.rejects(filling, { code: 'no-space', message: 'the catalog is full' })
  t.equal(n - 1, 255, 'x 4096 bytes')
  for (let turn = 0; turn < 600; turn++) await catalog.put({ ...largest(1 + turn % 50), sizeBytes: 512 * (turn + 1) })
  await catalog.remove('v7')
  await catalog.put(largest(300))
  t.strictSame((await open(disk)).list(), catalog.list())
})

t.test('D7: after a failed write memory is what it was and nothing more is accepted', async t => {
  const disk = await fresh()
  let broken = false
  const flaky = new Proxy(disk, {
    get: (target, key) => {
      if (key === 'flush') return () => { if (broken) throw new Error('EIO'); return target.flush() }
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  const catalog = await open(flaky)
  await catalog.put(entry(1))
  broken = true
  await t.rejects(catalog.put(entry(2)), { code: 'flush-failed' })
  t.ok(catalog.inDoubt)
  broken = false
  await t.rejects(catalog.remove('v1'), { code: 'flush-failed' })
  t.strictSame(catalog.list(), [entry(1)])
})

t.test('a backing elsewhere has a record of its own type, and one volume', async t => {
  const disk = await fresh()
  const catalog = await open(disk)
  const far = entry(1, { backing: 'nbd://host/x' })
  await catalog.put(far)
  await catalog.put(entry(2))
  await t.rejects(catalog.put(entry(3, { backing: far.backing })), { code: 'exists', message: /nbd:\/\/host\/x is the backing of volume 'v1'/ })
  const { records } = await openRecordLog(disk, IDENTITY)
  t.strictSame(records.map(({ type }) => type), [3, 1])
  t.strictSame((await open(disk)).list(), [far, entry(2)])
  await catalog.put(entry(1))
  t.strictSame((await open(disk)).list(), [entry(1), entry(2)], 'what comes last counts, of whatever type')
})

t.test('records that make no sense are damage, unknown ones are newer', async t => {
  const cases: [number, string, string, RegExp][] = [
    [1, 'not json', 'damaged', /record 1 cannot be understood/],
    [1, JSON.stringify({ ...entry(1), name: '../etc' }), 'damaged', /record 1/],
    [1, JSON.stringify({ ...entry(1), future: true }), 'damaged', /future/],
    [2, '{}', 'damaged', /record 1/],
    [4, '{}', 'newer-format', /type 4/],
    [1, JSON.stringify(entry(1, { backing: 'nbd://host/x' })), 'damaged', /other type/],
    [3, JSON.stringify(entry(1, { backing: '/dev/sdb' })), 'damaged', /other type/],
  ]
  for (const [type, payload, code, message] of cases) {
    const disk = await fresh()
    const { log } = await openRecordLog(disk, IDENTITY)
    log.append(type, Buffer.from(payload))
    await t.rejects(open(disk), { code, message }, payload)
  }
  const twice = await fresh()
  const { log } = await openRecordLog(twice, IDENTITY)
  for (const n of [1, 2]) log.append(1, Buffer.from(JSON.stringify(entry(n, { name: 'same' }))))
  await t.rejects(open(twice), { code: 'damaged', message: /record 2/ })
})
