// Group splits in memory, in their hundreds: dependent writes over real mirrors are never inverted (SEEDS D1).
import t from 'tap'
import { silentLogger } from '../../src/device/logger.js'
import { ManualClock, type MemoryDisk, type Random, seededRandom } from '../../src/device/testing.js'
import { DeviceTarget } from '../../src/replication/device-target.js'
import { LogBudget } from '../../src/replication/log-budget.js'
import { Mirror } from '../../src/replication/mirror.js'
import { MirrorGroup } from '../../src/replication/mirror-group.js'
import { judgeState } from '../../src/replication/mirror-record.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { MEMBERS, openMembers, SIZE, UUIDS, type MemberDisks } from '../crash/group-lab.js'
import { disk, G, type Wire } from './lab.js'
import { dressed, freshDisks, nothingPulled, storeOf } from './memory-lab.js'

const ROUNDS = Number(process.env.ROUNDS ?? 400)
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)

/** Requests of a disk that are done in one of the next turns. */
function late(device: MemoryDisk, random: Random): void {
  for (const kind of ['write', 'flush'] as const) {
    const work = device[kind].bind(device) as (...args: unknown[]) => Promise<void> | void
    Object.assign(device, { [kind]: async (...args: unknown[]) => {
      await turns(random(3))
      await work(...args)
    } })
  }
}

async function turns(count: number): Promise<void> {
  for (let left = count; left > 0; left--) await new Promise<void>(resolve => { setImmediate(resolve) })
}

async function counterOf({ disk: device }: Wire): Promise<number> {
  const bytes = Buffer.alloc(4)
  await device.read(0, 4, bytes, 0)
  return bytes.readUInt32BE(0)
}

/** What each split left on the two targets. @param freeze how the store freezes both sources */
async function rounds(
  count: number, random: Random, freeze: (store: ReturnType<typeof storeOf>, sources: readonly StoreVolume[]) => ReturnType<typeof storeOf>,
): Promise<(readonly [number, number])[]> {
  const array = await freshDisks(false, 8 * count + 8)
  const images = array.initialImages()
  const disks = Object.fromEntries(array.names.map((name, i) => [name, images[i] as MemoryDisk])) as unknown as MemberDisks
  for (const name of ['a.live', 'a.journal', 'b.live', 'b.journal', 'table'] as const) late(disks[name] as MemoryDisk, random)
  const { table, volumes } = await openMembers(disks)
  const sources = volumes.map((volume, place) => dressed(volume, MEMBERS[place]!))
  const wires = MEMBERS.map(() => disk(SIZE / G))
  const mirrors = MEMBERS.map((name, place) => new Mirror({
    record: {
      uuid: UUIDS[name], name, volume: UUIDS[name], state: judgeState({
        target: { kind: 'nbd', uri: `nbd://far/${name}` }, intervalSeconds: 3600, lagBytes: null, bytesPerSecond: null, phase: 'copying',
        paused: false, blank: true, keep: false, cycle: 0, base: null,
      }),
    },
    target: new DeviceTarget(name, async () => wires[place]!), clock: new ManualClock(), logs: new LogBudget(),
    logger: silentLogger,
    source: () => sources[place]!, put: next => table.put({ mirrors: [next] }),
  }))
  for (const mirror of mirrors) await mirror.sync()
  let stop = false
  const writing = (async () => {
    const bytes = Buffer.alloc(4)
    for (let k = 1; ; k++) {
      for (const source of sources) {
        if (stop) return k
        bytes.writeUInt32BE(k)
        await source.write(0, 4, bytes, 0)
        await turns(random(3))
      }
    }
  })()
  const group = new MirrorGroup(mirrors, freeze(storeOf(table, sources), sources), nothingPulled())
  const rows: (readonly [number, number])[] = []
  for (let round = 0; round < count; round++) {
    await group.split({ atOnce: false })
    rows.push([await counterOf(wires[0]!), await counterOf(wires[1]!)])
    await group.beginResync({ whole: false })
    await group.syncEach({})
  }
  stop = true
  await writing
  return rows
}

const isWrong = ([first, second]: readonly [number, number]): boolean => second > first || second < first - 1

t.setTimeout(60_000 + ROUNDS * 200)
t.test(`D1: ${ROUNDS} group splits of two mirrors`, { timeout: 60_000 + ROUNDS * 200 }, async t => {
  t.comment(`seed ${SEED}`)
  const rows = await rounds(ROUNDS, seededRandom(SEED), store => store)
  t.same(rows.filter(isWrong), [], 'B(k) without A(k), or more than one write in between')
  const cuts = rows.filter(([first, second]) => first !== second).length
  t.ok(cuts > ROUNDS / 20, `${cuts} cuts fell between dependent writes`)
  t.equal(new Set(rows.map(([first]) => first)).size, ROUNDS, 'each split is a new point')
})

t.test('a freeze of one source after the other is seen by this', async t => {
  const rows = await rounds(60, seededRandom(SEED), (store, sources) => ({
    ...store,
    createPointsTogether: async wanted => {
      const made = []
      for (const { volume, ...options } of wanted) {
        made.push({ volume, point: await sources.find(({ name }) => name === volume)!.points.create(options) })
      }
      return made
    },
  }))
  t.ok(rows.some(isWrong))
})
