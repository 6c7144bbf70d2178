// D6: the restore of a group: in every crash state both volumes show what they were before, or both what the snapshots froze.
import t from 'tap'
import { crashStates, ManualClock, seededRandom } from '../../src/device/testing.js'
import { Groups } from '../../src/volume/groups.js'
import { GRAIN, readAll } from '../volume/lab.js'
import { freshArray, MEMBERS, openMembers, SIZE, UUIDS, type MemberDisks, type Opened } from './group-lab.js'

const STATES = Number(process.env.STATES ?? 1500)
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
interface Note { readonly what: 'restoring' | 'restored' }
interface Explored { states: number, wrong: string[], split: number }

async function scribble({ volumes }: Opened, random: (below: number) => number): Promise<void> {
  for (const volume of volumes) {
    for (let i = 0; i < 5; i++) {
      const [grain, length] = [random(SIZE / GRAIN), random(2) === 0 ? GRAIN : 512 * (1 + random(8))]
      await volume.write(grain * GRAIN, length, Buffer.alloc(length, 1 + random(255)), 0)
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

async function explore(seed: number, statesMax: number): Promise<Explored> {
  const random = seededRandom(seed)
  const clock = new ManualClock()
  const array = await freshArray<Note>(random(2) === 0)
  const opened = await openMembers(Object.fromEntries(array.names.map(name => [name, array.disk(name)])) as unknown as MemberDisks, clock)
  const groups = groupsOf(opened)
  await groups.create('g', MEMBERS)
  const contents = () => Promise.all(opened.volumes.map(volume => readAll(volume)))
  await scribble(opened, random)
  const after = await contents()
  await groups.createPoints({ group: 'g', name: 's', kind: 'snapshot' })
  await scribble(opened, random)
  const before = await contents()
  array.note({ what: 'restoring' })
  const { finished } = await groups.restore({ group: 'g', name: 's', bytesPerSecond: GRAIN })
  array.note({ what: 'restored' })
  finished.catch(() => undefined)
  for (let i = random(4); i > 0; i--) await clock.advance(1000)
  const result: Explored = { states: 0, wrong: [], split: 0 }
  for (const state of crashStates(array, { seed, statesMax })) {
    const what = state.notes.at(-1)?.what
    if (!what) continue
    result.states++
    if (what === 'restoring') result.split++
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
  if (first !== 'after, after' && (what === 'restored' || first !== 'before, before')) return `${what}: ${first}`
  for (let i = 0; i < 20; i++) await clock.advance(1000)
  if (await shown() !== first) return `${first}, and after copying ${await shown()}`
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
t.test(`both or neither in at least ${STATES} crash states`, { timeout: 600_000 }, async t => {
  t.comment(`seed ${SEED}`)
  const sum: Explored = { states: 0, wrong: [], split: 0 }
  for (let seed = SEED; sum.states < STATES && sum.wrong.length === 0; seed++) {
    const found = await explore(seed, 400)
    sum.states += found.states
    sum.split += found.split
    sum.wrong.push(...found.wrong)
  }
  t.same(sum.wrong, [])
  t.comment(`${sum.states} states, ${sum.split} of them during a restore`)
  t.ok(sum.split > sum.states / 20)
})
