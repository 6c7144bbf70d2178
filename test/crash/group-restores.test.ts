// D6: the restore of a group, and its cancel: in every crash state both volumes show what they were before, or both what the snapshots froze.
import t from 'tap'
import { crashStates, ManualClock, seededRandom } from '../../src/device/testing.js'
import { Groups } from '../../src/volume/groups.js'
import { GRAIN, readAll } from '../volume/lab.js'
import { freshArray, MEMBERS, openMembers, SIZE, UUIDS, type MemberDisks, type Opened } from './group-lab.js'

const STATES = Number(process.env.STATES ?? 1500)
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
interface Note { readonly what: 'restoring' | 'restored' | 'cancelling' | 'cancelled' }
interface Explored { states: number, wrong: string[], split: number, uneven: number }

/** What may be shown. */
const SHOWN: Readonly<Record<Note['what'], readonly string[]>> = {
  restoring: ['after, after', 'before, before'], restored: ['after, after'], cancelling: ['after, after', 'before, before'], cancelled: ['before, before'],
}

/** @param first of the values: none of them has been there before */
async function scribble({ volumes }: Opened, random: (below: number) => number, first: number): Promise<void> {
  for (const volume of volumes) {
    for (let i = random(5); i >= 0; i--) {
      const [grain, length] = [random(SIZE / GRAIN), random(2) === 0 ? GRAIN : 512 * (1 + random(8))]
      await volume.write(grain * GRAIN, length, Buffer.alloc(length, first + random(100)), 0)
    }
    await volume.flush()
  }
}

function groupsOf({ table, volumes }: Opened): Groups {
  const members = volumes.map(({ points, inheritor }, index) => ({ uuid: UUIDS[MEMBERS[index]], name: MEMBERS[index], points, inheritor }))
  return new Groups(table, {
    usable: name => members.find(member => member.name === name)!, nameOf: uuid => members.find(member => member.uuid === uuid)?.name,
  })
}

async function explore(seed: number, statesMax: number, isCancelled: boolean): Promise<Explored> {
  const random = seededRandom(seed)
  const clock = new ManualClock()
  const array = await freshArray<Note>(random(2) === 0)
  const opened = await openMembers(Object.fromEntries(array.names.map(name => [name, array.disk(name)])) as unknown as MemberDisks, clock)
  const groups = groupsOf(opened)
  await groups.create('g', MEMBERS)
  const contents = () => Promise.all(opened.volumes.map(volume => readAll(volume)))
  await scribble(opened, random, 1)
  const after = await contents()
  await groups.createPoints({ group: 'g', name: 's', kind: 'snapshot' })
  await scribble(opened, random, 101)
  const before = await contents()
  array.note({ what: 'restoring' })
  const job = await groups.restore({ group: 'g', name: 's', bytesPerSecond: GRAIN })
  array.note({ what: 'restored' })
  job.finished.catch(() => undefined)
  for (let i = random(4); i > 0; i--) await clock.advance(1000)
  const going = opened.volumes.filter(({ inheriting }) => inheriting).length
  const result: Explored = { states: 0, wrong: [], split: 0, uneven: going === 1 ? 1 : 0 }
  if (isCancelled) {
    // Another seed is not as quick.
    if (going === 0) return result
    array.note({ what: 'cancelling' })
    await job.cancel()
    array.note({ what: 'cancelled' })
  }
  for (const state of crashStates(array, { seed, statesMax })) {
    const what = state.notes.at(-1)?.what
    if (!what) continue
    result.states++
    if (what === (isCancelled ? 'cancelling' : 'restoring')) result.split++
    const judged = await judge(state.disks as unknown as MemberDisks, what, before, after).catch(error => String(error))
    if (judged) result.wrong.push(`seed ${seed}, after event ${state.position}, ${state.story}: ${judged}`)
    if (result.wrong.length > 2) break
  }
  return result
}

/** What is wrong. */
async function judge(disks: MemberDisks, what: Note['what'], before: Buffer[], after: Buffer[]): Promise<string | undefined> {
  const clock = new ManualClock()
  const { volumes } = await openMembers(disks, clock)
  const shown = async (): Promise<string> => {
    const found = await Promise.all(volumes.map(volume => readAll(volume)))
    return found.map((content, i) => content.equals(after[i]) ? 'after' : content.equals(before[i]) ? 'before' : 'a mixture').join(', ')
  }
  const first = await shown()
  if (!SHOWN[what].includes(first)) return `${what}: ${first}`
  for (let i = 0; i < 20; i++) await clock.advance(1000)
  if (await shown() !== first) return `${first}, and after copying ${await shown()}`
  if (what.startsWith('cancel')) return undefined
  for (const [i, { points }] of volumes.entries()) {
    const undo = points.get('undo-s-1')
    if ((undo !== undefined) !== (first === 'after, after')) return `${first}, but the undo point is ${undo ? '' : 'not '}there`
    if (!undo) continue
    const device = points.open('undo-s-1')
    if (!(await readAll(device)).equals(before[i])) return `the undo point of ${MEMBERS[i]} is not what was there`
    await device.close()
  }
  return undefined
}

t.setTimeout(600_000)
for (const isCancelled of [false, true]) {
  t.test(`${isCancelled ? 'a cancel: ' : ''}both or neither in at least ${STATES} crash states`, { timeout: 600_000 }, async t => {
    t.comment(`seed ${SEED}`)
    const sum: Explored = { states: 0, wrong: [], split: 0, uneven: 0 }
    for (let seed = SEED; sum.states < STATES && sum.wrong.length === 0; seed++) {
      const found = await explore(seed, 400, isCancelled)
      sum.states += found.states
      sum.split += found.split
      sum.uneven += found.uneven
      sum.wrong.push(...found.wrong)
    }
    t.same(sum.wrong, [])
    t.comment(`${sum.states} states, ${sum.split} of them in its midst; ${sum.uneven} times one volume was copying, and the other not`)
    t.ok(sum.split > sum.states / 20)
  })
}

t.test('a cancel takes back those that have copied all as well, as long as one has not', async t => {
  const clock = new ManualClock()
  const array = await freshArray<Note>(false)
  const opened = await openMembers(Object.fromEntries(array.names.map(name => [name, array.disk(name)])) as unknown as MemberDisks, clock)
  const groups = groupsOf(opened)
  await groups.create('g', MEMBERS)
  const fill = async (grains: readonly number[], value: number): Promise<void> => {
    for (const [i, volume] of opened.volumes.entries()) await volume.write(0, grains[i]! * GRAIN, Buffer.alloc(grains[i]! * GRAIN, value), 0)
  }
  await fill([4, 4], 1)
  await groups.createPoints({ group: 'g', name: 's', kind: 'snapshot' })
  await fill([1, 4], 2)
  const contents = () => Promise.all(opened.volumes.map(volume => readAll(volume)))
  const before = await contents()
  const job = await groups.restore({ group: 'g', name: 's', bytesPerSecond: GRAIN })
  for (let i = 0; i < 20 && opened.volumes[0]!.inheriting; i++) await clock.advance(100)
  t.same(opened.volumes.map(({ inheriting }) => inheriting !== undefined), [false, true])
  await job.cancel()
  await job.finished
  t.same(await contents(), before)
  while (opened.volumes.some(({ inheriting }) => inheriting)) await clock.advance(1000)
  await t.rejects(job.cancel(), { code: 'wrong-state', message: 'the restore is over' })
  t.same(await contents(), before)
})
