// Group snapshots of two volumes with one table: in every crash state each exists in both volumes or in neither, and is exact.
import t from 'tap'
import { crashStates, seededRandom } from '../../src/device/testing.js'
import { createGroupPoints } from '../../src/volume/groups.js'
import { entryOf } from '../../src/volume/point-disk.js'
import { GRAIN, readAll } from '../volume/lab.js'
import { freshArray, MEMBERS, openMembers, UUIDS, type MemberDisks, type Opened } from './group-lab.js'

const STATES = Number(process.env.STATES ?? 1200)
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
interface Note { readonly what: 'creating' | 'created' | 'deleting' | 'deleted', readonly name: string }

async function explore(seed: number, statesMax: number): Promise<{ states: number, halves: string[], split: number }> {
  const random = seededRandom(seed)
  const array = await freshArray<Note>(random(2) === 0)
  const { table, volumes } = await openMembers(Object.fromEntries(array.names.map(name => [name, array.disk(name)])) as unknown as MemberDisks)
  const frozen = new Map<string, Buffer[]>()
  const names: string[] = []
  const members = volumes.map(({ points }, index) => ({ uuid: UUIDS[MEMBERS[index]], name: MEMBERS[index], points }))
  for (let step = 0; step < 10; step++) {
    for (const volume of volumes) {
      const place = random(4) * GRAIN + random(8) * 512
      await volume.write(place, 512, Buffer.alloc(512, 1 + random(255)), 0)
    }
    if (step % 3 === 0) {
      const name = `s${step}`
      frozen.set(name, await Promise.all(volumes.map(volume => readAll(volume))))
      array.note({ what: 'creating', name })
      await createGroupPoints(members, () => ({ name, kind: 'snapshot' }),
        records => table.put({ points: records.map(({ volume, record }) => entryOf(volume, record)) }))
      array.note({ what: 'created', name })
      names.push(name)
    } else if (step === 8) {
      array.note({ what: 'deleting', name: names[0] })
      for (const { points } of volumes) await points.delete(names[0])
      array.note({ what: 'deleted', name: names[0] })
    }
  }
  const result = { states: 0, halves: [] as string[], split: 0 }
  for (const state of crashStates(array, { seed, statesMax })) {
    result.states++
    try {
      if (await judge(await openMembers(state.disks), state.notes, frozen)) result.split++
    } catch (error) {
      result.halves.push(`seed ${seed}, after event ${state.position}, ${state.story}: ${error instanceof Error ? error.stack : String(error)}`)
      if (result.halves.length > 2) break
    }
  }
  return result
}

/** Returns whether a creation was under way. */
async function judge({ volumes }: Opened, notes: readonly Note[], frozen: ReadonlyMap<string, Buffer[]>): Promise<boolean> {
  const last = (name: string): Note['what'] | undefined => notes.findLast(note => note.name === name)?.what
  for (const [name, contents] of frozen) {
    const there = volumes.map(({ points }) => points.get(name) !== undefined)
    const what = last(name)
    // Deleting one by one is no group operation.
    if (what !== 'deleting' && there[0] !== there[1]) throw new Error(`${name} is in one volume only`)
    if (what === 'created' && !there[0]) throw new Error(`${name} is gone`)
    if ((what === undefined || what === 'deleted') && there[0]) throw new Error(`${name} is there, but ${what ?? 'not begun'}`)
    for (const [index, { points }] of volumes.entries()) {
      if (!there[index]) continue
      const device = points.open(name)
      const found = await readAll(device)
      await device.close()
      if (!found.equals(contents[index])) throw new Error(`${name} of ${MEMBERS[index]} is not what it froze`)
    }
  }
  return [...frozen.keys()].some(name => last(name) === 'creating')
}

t.test(`all or none in at least ${STATES} crash states`, async t => {
  let [states, split] = [0, 0]
  for (let seed = SEED; states < STATES; seed++) {
    const found = await explore(seed, 300)
    states += found.states
    split += found.split
    if (!t.same(found.halves, [], `seed ${seed}`)) return
  }
  t.comment(`${states} states, ${split} of them during a creation`)
  t.ok(split > states / 20)
})
