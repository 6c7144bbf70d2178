// D6: every crash state of a table of points at work shows each change whole or not at all, points of a group in all volumes or in
// none; nothing confirmed is missing, at most the change being made is there besides; and no number is given out twice.
import t from 'tap'
import type { BlockDevice } from '../../src/device/block-device.js'
import { crashStates } from '../../src/device/crash.js'
import { DiskArray } from '../../src/device/disk-array.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { seededRandom } from '../../src/device/random.js'
import { formatSparseLog } from '../../src/store/open-record-log.js'
import type { PointEntry } from '../../src/store/point-entry.js'
import { openPointTable, POINTS_MAGIC, type PointChanges, type PointTable } from '../../src/store/point-table.js'

const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
const SCRIPTS = 12
const CHANGES = 60
const VOLUMES = 3
t.setTimeout(180_000)
t.comment(`SEED=${SEED}`)
const OWNER = Buffer.from('0123456789abcdef')
const uuid = (n: number): string => `00000000-0000-4000-8000-${n.toString().padStart(12, '0')}`

/** The table's content in one line. */
function told(table: PointTable): string {
  const volumes = Array.from({ length: VOLUMES }, (_, v) => {
    const { inherit, schedule } = table.state(uuid(v))
    return table.list(uuid(v)).map(({ seq, name, state, labels }) => `${seq}=${name}${state[0]}${labels.size?.length}`).join(' ')
      + JSON.stringify([inherit, schedule])
  })
  return `${volumes.join(' | ')} | ${JSON.stringify(table.groups())}`
}

interface Note {
  readonly sure: string
  readonly maybe: string
  /** By volume, the highest number confirmed. */
  readonly marks: readonly number[]
}

async function copyOf(disk: BlockDevice): Promise<MemoryDisk> {
  const bytes = Buffer.alloc(disk.sizeBytes)
  await disk.read(0, bytes.length, bytes, 0)
  return MemoryDisk.from(bytes)
}

let serial = 100
function randomChange(table: PointTable, random: (below: number) => number): PointChanges | string {
  const add = (v: number, group: string | null): PointEntry => ({
    uuid: uuid(serial++), volume: uuid(v), seq: table.nextSeq(uuid(v)), name: `p${serial}`, kind: 'snapshot',
    createdAt: '2026-01-02T03:04:05Z', sizeBytes: 512, labels: { size: 'x'.repeat(random(250)) }, group, pins: [], state: 'ready',
  })
  const v = random(VOLUMES)
  const mine = table.list(uuid(v))
  const one = mine[random(mine.length)]
  const dice = random(12)
  if (dice === 0) return uuid(v)
  if (dice < 4 && mine.length < 5) return { points: [0, 1, 2].map(volume => add(volume, uuid(serial))) }
  if (one && dice < 6) return { removePoints: [one], volumes: [{ volume: uuid(v), schedule: serial }] }
  if (one && dice < 8) return { points: [{ ...one, state: 'deleting' }, add((v + 1) % VOLUMES, null)] }
  if (one && dice < 9) {
    return { points: [add(v, null)], volumes: [{ volume: uuid(v), inherit: { kind: 'restore', source: { volume: uuid(v), point: one.uuid }, undo: null } }] }
  }
  if (dice < 10) return { removeGroups: ['g0'], groups: [{ name: `g${random(3)}`, volumes: [uuid(v)] }], removePoints: mine.slice(0, 2) }
  return { removePoints: mine }
}

t.test('D6: a table of points after every crash', async t => {
  let states = 0
  for (let script = 0; script < SCRIPTS; script++) {
    const random = seededRandom(SEED + script)
    const start = new MemoryDisk(60 * 1024)
    await formatSparseLog(start, { magic: POINTS_MAGIC, owner: OWNER, name: 'points.log' })
    const array = new DiskArray<'log', Note>({ log: start }, { lateFlush: script % 2 === 0 })
    const marks = new Array<number>(VOLUMES).fill(0)
    const note = (sure: string, maybe: string): void => array.note({ sure, maybe, marks: [...marks] })
    const empty = told((await openPointTable(start.fork(), OWNER, 'points.log')).table)
    note(empty, empty)
    const { table } = await openPointTable(array.disk('log'), OWNER, 'points.log')
    for (let i = 0; i < CHANGES; i++) {
      const before = told(table)
      let change = randomChange(table, random)
      try {
        if (typeof change !== 'string') table.judge(change)
      } catch {
        // The table is full: make room.
        change = { removePoints: [0, 1, 2].flatMap(v => table.list(uuid(v)).slice(1)) }
      }
      // What it will be is known from a twin that makes the same change on a disk of its own.
      const { table: twin } = await openPointTable(await copyOf(array.disk('log')), OWNER, 'points.log')
      if (typeof change === 'string') await twin.removeVolume(change)
      else await twin.put(change)
      note(before, told(twin))
      if (typeof change === 'string') {
        marks[Number(change.slice(-1))] = 0
        note(before, told(twin))
        await table.removeVolume(change)
      } else {
        await table.put(change)
        for (const { volume, seq } of [...change.points ?? [], ...change.removePoints ?? []]) {
          const v = Number(volume.slice(-1))
          marks[v] = Math.max(marks[v], seq)
        }
      }
      if (told(table) !== told(twin)) t.fail('the twin is another')
      note(told(table), told(table))
    }
    for (const state of crashStates(array, { seed: SEED + script, statesMax: 1200 })) {
      states++
      const { sure, maybe, marks: used } = state.notes.at(-1)!
      const { table: again } = await openPointTable(state.disks.log, OWNER, 'points.log')
      const found = told(again)
      const where = `SEED=${SEED} script ${script} position ${state.position}: ${state.story}`
      if (found !== sure && found !== maybe) t.fail(`${where}: ${found}`)
      for (const [v, mark] of used.entries()) if (again.nextSeq(uuid(v)) <= mark) t.fail(`${where}: a number used before`)
    }
  }
  t.comment(`${states} states`)
  t.ok(states > 5000)
})
