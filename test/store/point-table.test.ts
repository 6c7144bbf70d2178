// The table of points: what it takes, what it refuses, numbers that are never used twice, and what the disk gives back.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { FaultyDisk } from '../../src/device/faulty-disk.js'
import { seededRandom } from '../../src/device/random.js'
import { formatSparseLog, openRecordLog } from '../../src/store/open-record-log.js'
import {
  GROUP_VOLUMES_MAX, LABEL_KEY_LENGTH_MAX, LABEL_VALUE_LENGTH_MAX, LABELS_MAX, MIRROR_BYTES_MAX, PIN_OWNER_LENGTH_MAX, PINS_MAX, SCHEDULE_BYTES_MAX,
  type PointEntry,
} from '../../src/store/point-entry.js'
import { GROUPS_MAX, MIRRORS_MAX, POINTS_MAX, POINTS_PER_VOLUME_MAX } from '../../src/store/point-index.js'
import { openPointTable, POINTS_BYTES, POINTS_MAGIC, type PointTable } from '../../src/store/point-table.js'

t.setTimeout(120_000)
const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
t.comment(`SEED=${SEED}`)
const OWNER = Buffer.from('0123456789abcdef')
const uuid = (n: number): string => `00000000-0000-4000-8000-${n.toString().padStart(12, '0')}`
const [V, W] = [uuid(1), uuid(2)]
const at = '2026-01-02T03:04:05.678Z'

function point(seq: number, parts: Partial<PointEntry> = {}): PointEntry {
  const volume = parts.volume ?? V
  return {
    uuid: uuid(1000 * Number(volume.slice(-4)) + seq), volume, seq, name: `p${seq}`, kind: 'snapshot', createdAt: at, sizeBytes: 1 << 30,
    labels: {}, group: null, pins: [], state: 'ready', ...parts,
  }
}

async function fresh(sizeBytes = 256 * 1024): Promise<MemoryDisk> {
  const disk = new MemoryDisk(sizeBytes)
  await formatSparseLog(disk, { magic: POINTS_MAGIC, owner: OWNER, name: 'points.log' })
  return disk
}
const open = async (disk: MemoryDisk): Promise<PointTable> => (await openPointTable(disk, OWNER, 'points.log')).table
const told = (table: PointTable): unknown => [
  table.volumes().sort().map(volume => [volume, table.list(volume), table.state(volume)]), table.groups(), table.mirrors(),
]

t.test('points come in by number, are found by number, name and uuid, and come back from the disk', async t => {
  const disk = await fresh()
  const table = await open(disk)
  const marked = point(2, { labels: { auto: 'undo', 'team/x': '' }, pins: [{ owner: 'clone a', expiresAt: null }, { owner: 'b', expiresAt: at }] })
  await table.put({ points: [point(1), marked], volumes: [{ volume: V, schedule: { keep: { daily: 7 } } }] })
  await table.put({ points: [point(4, { kind: 'bookmark', name: 'later' })], groups: [{ name: 'all', volumes: [V, W] }] })
  await table.put({ volumes: [{ volume: W, inherit: { kind: 'clone', source: { volume: V, point: marked.uuid }, undo: null } }] })
  for (const one of [table, await open(disk)]) {
    t.strictSame(one.list(V).map(({ seq }) => seq), [1, 2, 4])
    t.strictSame([one.get(V, 'p2'), one.bySeq(V, 2), one.byUuid(marked.uuid)], [marked, marked, marked])
    t.strictSame([one.get(V, 'p9'), one.get(W, 'p1'), one.list(W), one.byUuid(V)], [undefined, undefined, [], undefined])
    t.strictSame(one.state(V), { volume: V, inherit: null, schedule: { keep: { daily: 7 } } })
    t.equal(one.state(W).inherit?.kind, 'clone')
    t.strictSame(one.states().map(({ volume }) => volume).sort(), [V, W])
    t.strictSame([one.group('all'), one.groups().length], [{ name: 'all', volumes: [V, W] }, 1])
    t.equal(one.pointCount, 3)
  }
})

t.test('a state\'s part that is not named stays', async t => {
  const table = await open(await fresh())
  const inherit = { kind: 'restore', source: { volume: V, point: uuid(5) }, undo: uuid(6) } as const
  await table.put({ volumes: [{ volume: V, inherit }] })
  await table.put({ volumes: [{ volume: V, schedule: ['x'] }] })
  t.strictSame(table.state(V), { volume: V, inherit, schedule: ['x'] })
  await table.put({ volumes: [{ volume: V, inherit: null }] })
  t.strictSame(table.state(V), { volume: V, inherit: null, schedule: ['x'] })
  await table.put({ volumes: [{ volume: V, schedule: null }] })
  t.strictSame([table.states(), table.volumes()], [[], []])
})

t.test('numbers are never used twice, not after deletes, not after opening anew', async t => {
  const disk = await fresh()
  let table = await open(disk)
  t.strictSame([table.nextSeq(V), table.nextSeq(V), table.nextSeq(W), table.nextSeq(V)], [1, 2, 1, 3])
  await table.put({ points: [point(3)] })
  await table.put({ removePoints: [{ volume: V, seq: 3 }] })
  table = await open(disk)
  t.strictSame([table.list(V), table.nextSeq(V)], [[], 4])
  t.equal(table.nextSeq(V, 10), 11, 'a folder was found with number 10')
  await t.rejects(table.put({ points: [point(3)] }), { code: 'bad-argument', message: /point 3 of volume .* used before/ })
  await table.put({ removePoints: [{ volume: W, seq: 8 }] })
  t.equal((await open(disk)).nextSeq(W), 9, 'the number of a point that never came in')
  await table.put({ points: [point(20), point(21, { name: 'x' })] })
  await t.rejects(table.put({ points: [point(20, { uuid: uuid(77) })] }), { code: 'bad-argument', message: /its uuid cannot change/ })
})

t.test('all or nothing: one thing wrong, and nothing of the change is there', async t => {
  const disk = await fresh()
  const table = await open(disk)
  await table.put({ points: [point(1), point(2)], groups: [{ name: 'g', volumes: [V] }] })
  const before = told(table)
  const good = { points: [point(3)], removePoints: [{ volume: V, seq: 1 }], removeGroups: ['g'] }
  const bad: [object, string, RegExp][] = [
    [{ points: [point(3), point(4, { name: 'p2' })] }, 'exists', /has a point 'p2' already/],
    [{ points: [point(3), point(4, { uuid: point(2).uuid })] }, 'exists', /there is a point/],
    [{ points: [point(3), point(4, { volume: W, uuid: point(3).uuid })] }, 'exists', /there is a point/],
    [{ points: [point(3), point(4, { name: '.hidden' })] }, 'bad-argument', /points\.1\.name: a name may not start/],
    [{ points: [point(3), point(0)] }, 'bad-argument', /numbered from 1/],
    [{ points: [point(3, { sizeBytes: 1000 })] }, 'bad-argument', /sizeBytes/],
    [{ points: [point(3, { kind: 'x' as 'snapshot' })] }, 'bad-argument', /kind/],
    [{ points: [point(3, { labels: { '-a': '' } })] }, 'bad-argument', /label/],
    [{ points: [point(3, { labels: { a: 'b\n' } })] }, 'bad-argument', /control characters/],
    [{ points: [point(3, { labels: Object.fromEntries(Array.from({ length: LABELS_MAX + 1 }, (_, i) => [`k${i}`, ''])) })] }, 'bad-argument', /at most 16 labels/],
    [{ points: [point(3, { pins: [{ owner: 'a', expiresAt: null }, { owner: 'a', expiresAt: at }] })] }, 'bad-argument', /one pin/],
    [{ points: [point(3, { pins: Array.from({ length: PINS_MAX + 1 }, (_, i) => ({ owner: `${i}`, expiresAt: null })) })] }, 'bad-argument', /at most 1024 pins/],
    [{ points: [point(2, { kind: 'bookmark' })] }, 'bad-argument', /its kind cannot change/],
    [{ points: [{ ...point(3), more: 1 }] }, 'bad-argument', /points\.0/],
    [{ volumes: [{ volume: W, schedule: 'x'.repeat(SCHEDULE_BYTES_MAX) }] }, 'bad-argument', /schedule has at most 4096/],
    [{ volumes: [{ volume: W, inherit: { kind: 'copy' } }] }, 'bad-argument', /inherit/],
    [{ groups: [{ name: 'h', volumes: [V, V] }] }, 'bad-argument', /in a group once/],
    [{ groups: [{ name: 'h/', volumes: [V] }] }, 'bad-argument', /a name consists/],
  ]
  for (const [change, code, message] of bad) {
    t.throws(() => table.judge({ ...good, ...change }), { code, message })
    await t.rejects(table.put({ ...good, ...change }), { code, message })
    t.strictSame(told(table), before)
  }
  t.strictSame(told(await open(disk)), before)
  table.judge(good)
  await table.put(good)
  t.strictSame([table.list(V).map(({ seq }) => seq), table.groups()], [[2, 3], []])
})

t.test('everything at its longest is taken, and nothing longer', async t => {
  const table = await open(await fresh(POINTS_BYTES))
  const attempt = (more: number): Promise<void> => {
    const key = (i: number): string => `${i}`.padEnd(LABEL_KEY_LENGTH_MAX + more, 'k')
    const labels = Object.fromEntries(Array.from({ length: LABELS_MAX }, (_, i) => [key(i), '\u{1f642}'.repeat(LABEL_VALUE_LENGTH_MAX / 2)]))
    const pins = Array.from({ length: PINS_MAX }, (_, i) => ({ owner: `${i}`.padEnd(PIN_OWNER_LENGTH_MAX, 'ö'), expiresAt: at }))
    const volumes = Array.from({ length: GROUP_VOLUMES_MAX }, (_, i) => uuid(i))
    const schedule = 'x'.repeat(SCHEDULE_BYTES_MAX - 2)
    return table.put({ points: [point(1, { name: 'n'.repeat(128), labels, pins })], volumes: [{ volume: V, schedule }], groups: [{ name: 'g', volumes }] })
  }
  await t.rejects(attempt(1), { code: 'bad-argument' })
  await attempt(0)
  const long = [
    { points: [point(2, { labels: { a: 'x'.repeat(LABEL_VALUE_LENGTH_MAX + 1) } })] },
    { points: [point(2, { pins: [{ owner: 'x'.repeat(PIN_OWNER_LENGTH_MAX + 1), expiresAt: null }] })] },
    { groups: [{ name: 'h', volumes: Array.from({ length: GROUP_VOLUMES_MAX + 1 }, (_, i) => uuid(i)) }] },
    { points: [point(2, { name: 'n'.repeat(129) })] },
  ]
  for (const change of long) await t.rejects(table.put(change), { code: 'bad-argument', message: /at most/ })
})

t.test('names: free for others once the point is being deleted; two may change theirs at once', async t => {
  const table = await open(await fresh())
  await table.put({ points: [point(1, { name: 'a' }), point(2, { name: 'b' }), point(1, { volume: W, name: 'a' })] })
  await table.put({ points: [point(1, { name: 'b' }), point(2, { name: 'a' })] })
  t.strictSame([table.get(V, 'a')?.seq, table.get(V, 'b')?.seq, table.get(W, 'a')?.seq], [2, 1, 1])
  await table.put({ points: [point(2, { name: 'a', state: 'deleting' }), point(3, { name: 'a' })] })
  t.strictSame([table.get(V, 'a')?.seq, table.list(V).map(({ seq }) => seq)], [3, [1, 2, 3]])
  await table.put({ removePoints: [{ volume: V, seq: 2 }] })
  t.equal(table.get(V, 'a')?.seq, 3)
  await table.put({ removePoints: [{ volume: V, seq: 3 }], points: [point(4, { name: 'a' })] })
  t.equal(table.get(V, 'a')?.seq, 4)
})

t.test('what is there already is no change', async t => {
  const disk = await fresh()
  const table = await open(disk)
  const change = { points: [point(1)], volumes: [{ volume: V, schedule: 1 }], groups: [{ name: 'g', volumes: [V] }] }
  await table.put(change)
  const image = disk.fork().toBuffer()
  await table.put(change)
  await table.put({ removePoints: [], removeGroups: ['none'] })
  await table.put({})
  await table.removeVolume(W)
  t.ok(disk.toBuffer().equals(image))
})

t.test('a volume leaves with all that was said of it', async t => {
  const disk = await fresh()
  const table = await open(disk)
  await table.put({ points: [point(1), point(1, { volume: W })], volumes: [{ volume: V, schedule: 1 }], groups: [{ name: 'g', volumes: [V, W] }] })
  await table.removeVolume(V)
  for (const one of [table, await open(disk)]) {
    t.strictSame([one.list(V), one.state(V).schedule, one.groups(), one.volumes()], [[], null, [{ name: 'g', volumes: [W] }], [W]])
    t.equal(one.pointCount, 1)
  }
})

t.test('before the first record, and only then, the store is raised; if that fails nothing is written', async t => {
  const disk = await fresh()
  let raised = 0
  let fails = true
  const beforeFirst = async (): Promise<void> => { if (fails) throw new Error('EROFS'); raised++ }
  const { table } = await openPointTable(disk, OWNER, 'points.log', { beforeFirst })
  const image = disk.toBuffer()
  await t.rejects(table.put({ points: [point(1)] }), /EROFS/)
  t.ok(disk.toBuffer().equals(image))
  t.strictSame(table.list(V), [])
  fails = false
  await Promise.all([table.put({ points: [point(1)] }), table.put({ points: [point(2)] })])
  t.equal(raised, 1)
})

t.test('space: kept beside the rest, in records that only who knows of it understands, a rewrite included', async t => {
  const disk = await fresh()
  const table = await open(disk)
  const space = { budgetBytes: 2 ** 30, order: 'fail' } as const
  const types = async (): Promise<number[]> =>
    (await openRecordLog(disk.fork(), { magic: POINTS_MAGIC, owner: OWNER, name: 'points.log' })).records.map(({ type }) => type)
  await table.put({ points: [point(1)], volumes: [{ volume: W, schedule: 1 }] })
  await table.put({ volumes: [{ volume: V, space }] })
  await table.put({ volumes: [{ volume: V, schedule: 2 }] })
  t.strictSame(await types(), [1, 2, 2])
  for (let i = 0; i < 300; i++) await table.put({ volumes: [{ volume: W, schedule: `${i}${'x'.repeat(4000)}` }] })
  for (const one of [table, await open(disk.fork())]) t.strictSame(one.state(V), { volume: V, inherit: null, schedule: 2, space })
  t.ok((await types()).includes(2))
  for (const wrong of [{ budgetBytes: -1, order: 'fail' }, { budgetBytes: 1.5, order: 'fail' }, { budgetBytes: null, order: 'x' }, { order: 'fail' }]) {
    await t.rejects(table.put({ volumes: [{ volume: V, space: wrong as never }] }), { code: 'bad-argument' })
  }
  await table.removeVolume(V)
  await table.put({ volumes: [{ volume: W, schedule: null }] })
  t.strictSame(table.states(), [])
})

t.test('a write that fails changes nothing in memory, and leaves the table in doubt', async t => {
  const disk = new FaultyDisk(await fresh())
  const { table } = await openPointTable(disk, OWNER, 'points.log')
  await table.put({ points: [point(1)] })
  disk.arm({ on: 'flush', nth: 1, effect: { kind: 'error', code: 'io' } })
  await t.rejects(table.put({ points: [point(2)] }), { code: 'flush-failed' })
  t.strictSame([table.list(V).map(({ seq }) => seq), table.inDoubt], [[1], true])
  await t.rejects(table.put({ points: [point(2)] }), { code: 'flush-failed' })
})

t.test('a full disk refuses a change before its record: nothing is in doubt, and it goes on when there is space', async t => {
  const inner = await fresh()
  const disk = new FaultyDisk(inner)
  const { table } = await openPointTable(disk, OWNER, 'points.log')
  await table.put({ points: [point(1)] })
  disk.arm({ on: 'write', range: [8192 + 64 * 1024, 256 * 1024], effect: { kind: 'error', code: 'no-space' } })
  let seq = 1
  const more = (): Promise<void> => table.put({ points: [point(++seq, { labels: { text: 'x'.repeat(250) } })] })
  while (seq < 1000 && await more().then(() => true, () => false));
  t.ok(seq > 100 && seq < 200, `what was laid ahead took ${seq}`)
  t.strictSame([table.inDoubt, table.list(V).length], [false, seq - 1])
  await t.rejects(more(), { code: 'no-space' })
  await table.put({ points: [] })
  disk.disarm()
  await more()
  t.strictSame(told(await open(inner)), told(table))
})

t.test('what cannot be understood is damage, an unknown record is newer', async t => {
  for (const [type, text, code] of [[4, '{}', 'newer-format'], [1, '{', 'damaged'], [1, '{"points":[1]}', 'damaged'], [1, '{"what":1}', 'damaged']] as const) {
    const disk = await fresh()
    const { log } = await openRecordLog(disk, { magic: POINTS_MAGIC, owner: OWNER, name: 'points.log' })
    log.append(type, Buffer.from(text))
    await log.sync()
    await t.rejects(open(disk), { code, message: /points\.log: record 1/ })
  }
})

t.test('mirrors: by uuid and name, gone with their volume, and refused by who does not know them', async t => {
  const disk = await fresh()
  const table = await open(disk)
  const one = { uuid: uuid(70), name: 'm', volume: V, state: { base: null } }
  await table.put({ points: [point(1)], mirrors: [one, { ...one, uuid: uuid(71), name: 'n', volume: W }] })
  await t.rejects(table.put({ mirrors: [{ ...one, uuid: uuid(72) }] }), { code: 'exists', message: /mirror 'm'/ })
  await table.put({ mirrors: [{ ...one, state: { base: 'x' } }], volumes: [{ volume: V, space: { budgetBytes: 1, order: 'fail' } }] })
  await table.put({ mirrors: [{ ...one, name: 'n2', uuid: uuid(71), volume: W }], removePoints: [{ volume: V, seq: 1 }] })
  for (const seen of [table, await open(disk)]) {
    t.strictSame(seen.mirrors().map(({ name, state }) => [name, state]), [['m', { base: 'x' }], ['n2', { base: null }]])
    t.strictSame(seen.volumes().sort(), [V, W])
  }
  await table.removeVolume(W)
  await table.put({ removeMirrors: [uuid(99)] })
  t.strictSame((await open(disk)).mirrors().map(({ name }) => name), ['m'])
  await table.put({ removeMirrors: [one.uuid] })
  t.strictSame((await open(disk)).mirrors(), [])
  const { records } = await openRecordLog(disk, { magic: POINTS_MAGIC, owner: OWNER, name: 'points.log' })
  t.strictSame(records.map(({ type }) => type), [3, 3, 3, 1, 3])
  await t.rejects(table.put({ mirrors: [{ ...one, state: 'x'.repeat(MIRROR_BYTES_MAX) }] }), { code: 'bad-argument', message: /4096 bytes/ })
})

t.test('a rewritten table has its mirrors', async t => {
  const disk = await fresh(64 * 1024)
  const table = await open(disk)
  const mirrors = Array.from({ length: 20 }, (_, i) => ({ uuid: uuid(100 + i), name: `m${i}`, volume: V, state: i }))
  await table.put({ mirrors })
  for (let i = 0; i < 400; i++) await table.put({ volumes: [{ volume: V, schedule: i }] })
  t.strictSame((await open(disk)).mirrors(), table.mirrors())
  t.equal(table.mirrors().length, 20)
})

t.test('limits: points of a volume, groups, mirrors', async t => {
  const table = await open(await fresh(POINTS_BYTES))
  await table.put({ points: Array.from({ length: POINTS_PER_VOLUME_MAX }, (_, i) => point(i + 1)) })
  await t.rejects(table.put({ points: [point(5000)] }), { code: 'no-space', message: /1024 points/ })
  await table.put({ removePoints: [{ volume: V, seq: 7 }], points: [point(5000)] })
  await table.put({ groups: Array.from({ length: GROUPS_MAX }, (_, i) => ({ name: `g${i}`, volumes: [] })) })
  await t.rejects(table.put({ groups: [{ name: 'more', volumes: [] }] }), { code: 'no-space', message: /1000 groups/ })
  await table.put({ mirrors: Array.from({ length: MIRRORS_MAX }, (_, i) => ({ uuid: uuid(i), name: `m${i}`, volume: V, state: null })) })
  await t.rejects(table.put({ mirrors: [{ uuid: uuid(5000), name: 'more', volume: V, state: null }] }),
    { code: 'no-space', message: /1000 mirrors/ })
})

t.test('20,000 points with label, pin and group fit, open quickly, and are not too many for a change', async t => {
  const disk = await fresh(POINTS_BYTES)
  let table = await open(disk)
  const group = uuid(9)
  for (let v = 1; v <= 40; v++) {
    const points = Array.from({ length: POINTS_MAX / 40 }, (_, i) => point(i + 1, {
      volume: uuid(v), group, name: `daily-2026-01-02T03-04-${i.toString().padStart(6, '0')}`, sizeBytes: 2 ** 44,
      labels: { auto: 'schedule' }, pins: i % 10 === 0 ? [{ owner: 'clone copy-of-something', expiresAt: null }] : [],
    }))
    await table.put({ points })
  }
  t.equal(table.pointCount, POINTS_MAX)
  await t.rejects(table.put({ points: [point(1, { volume: uuid(41) })] }), { code: 'no-space', message: /20000 points/ })
  const before = told(table)
  let start = performance.now()
  for (let i = 0; i < 200; i++) await table.put({ points: [{ ...table.list(uuid(3))[i], labels: { auto: `${i}` } }] })
  t.comment(`${((performance.now() - start) / 200).toFixed(2)} ms a change`)
  for (let i = 0; i < 200; i++) await table.put({ points: [{ ...table.list(uuid(3))[i], labels: { auto: 'schedule' } }] })
  await table.close()
  start = performance.now()
  table = await open(disk)
  t.comment(`opened in ${(performance.now() - start).toFixed(0)} ms`)
  t.strictSame(JSON.stringify(told(table)), JSON.stringify(before))
})

t.test('full: long labels are refused before the log is, and removals still go', async t => {
  const table = await open(await fresh(48 * 1024))
  const long = Object.fromEntries(Array.from({ length: LABELS_MAX }, (_, i) => [`k${i}`, 'x'.repeat(200)]))
  let last = 0
  const outcome = await (async () => { for (;;) await table.put({ points: [point(++last, { labels: long })] }) })().catch((error: Error) => error)
  t.match(outcome, { code: 'no-space', message: /table of points is full/ })
  t.ok(last > 1)
  for (let seq = 1; seq < last; seq++) await table.put({ removePoints: [{ volume: V, seq }] })
  await table.put({ points: [point(last, { labels: long })] })
  t.equal(table.pointCount, 1)
})

t.test('random changes against a plain model, opened anew now and then', async t => {
  const random = seededRandom(SEED)
  const disk = await fresh(96 * 1024)
  let table = await open(disk)
  const model = new Map<string, PointEntry>()
  const key = ({ volume, seq }: { volume: string, seq: number }): string => `${volume} ${seq}`
  for (let round = 0; round < 600; round++) {
    const volume = uuid(1 + random(3))
    const mine = [...model.values()].filter(one => one.volume === volume)
    const chosen = mine[random(mine.length)]
    const dice = random(10)
    if (dice < 4 && mine.length < 8) {
      const added = point(table.nextSeq(volume), { volume, labels: { n: 'x'.repeat(random(200)) } })
      await table.put({ points: [added] })
      model.set(key(added), added)
    } else if (chosen && dice < 7) {
      const changed = { ...chosen, labels: { n: `${round}` }, state: random(2) ? 'ready' : 'deleting' } as const
      await table.put({ points: [changed] })
      model.set(key(changed), changed)
    } else if (chosen && dice < 9) {
      await table.put({ removePoints: [chosen] })
      model.delete(key(chosen))
    } else if (random(6) === 0) {
      await table.removeVolume(volume)
      for (const one of mine) model.delete(key(one))
    }
    if (random(20) === 0) table = await open(disk)
    const found = [1, 2, 3].flatMap(v => table.list(uuid(v)))
    const wanted = [...model.values()].sort((a, b) => a.volume < b.volume ? -1 : a.volume > b.volume ? 1 : a.seq - b.seq)
    if (JSON.stringify(found) !== JSON.stringify(wanted)) return t.fail(`round ${round}`)
  }
  t.pass('all the same')
})
