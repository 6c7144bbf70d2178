/** Restores of a story of a store (store-story.ts): of one volume or of several, from its own snapshot or another's, all or a range of it. */
import { setTimeout as sleep } from 'node:timers/promises'
import { SECTOR } from '../volume/storm-model.js'
import type { StoreVolume } from '../../src/volume/store-volume.js'
import { exactly } from './sectors.js'
import { GRAIN, POINTS_MAX, type Teller } from './store-teller.js'
import { type Live, pointOf, withPoint, withVolume, type World } from './store-world.js'

const SLOW = { bytesPerSecond: 20 * GRAIN }

interface Wish {
  readonly volume: StoreVolume
  readonly from: string
  readonly source: StoreVolume
  /** Sectors. */
  readonly range: { readonly start: number, readonly end: number } | undefined
}

export async function tellRestore(teller: Teller, volume: StoreVolume): Promise<void> {
  const roll = teller.random(6)
  if (roll === 0) return restoreGroup(teller)
  const others = roll === 1 ? teller.names.map(name => teller.store.get(name)!) : [volume]
  const wishes = others.flatMap(other => {
    const wish = wishOf(teller, other)
    return wish ? [wish] : []
  })
  if (wishes.length === 0) return
  const text = `restore ${wishes.map(({ volume: { name }, source, from, range }) =>
    `${name} from ${source.name}@${from}${range ? ` ${range.start}-${range.end}` : ''}`).join(', ')}`
  const slow = teller.random(2) === 0 ? SLOW : {}
  await restore(teller, text, wishes, () => {
    const options = wishes.map(({ volume: { name, uuid }, source, from, range }) => ({
      volume: name, from, ...source.uuid !== uuid && { sourceVolume: source },
      ...range && { offset: range.start * SECTOR, length: (range.end - range.start) * SECTOR }, ...slow,
    }))
    const [only] = options
    return options.length === 1 ? wishes[0]!.volume.restore(only!) : teller.store.restoreTogether(options)
  })
}

function wishOf(teller: Teller, volume: StoreVolume): Wish | undefined {
  const { random } = teller
  const source = random(4) === 0 ? teller.store.get(teller.one(teller.names)!)! : volume
  const from = teller.somePoint(source, ['snapshot'])
  const { length } = teller.live(volume).now
  if (from === undefined || isFull(teller, volume)) return undefined
  const start = random(length)
  return { volume, source, from, range: random(3) === 0 ? { start, end: start + 1 + random(length - start) } : undefined }
}

/** Of points; or a restore waits for room, and the next one for that. */
function isFull(teller: Teller, volume: StoreVolume): boolean {
  const { points, space } = teller.live(volume)
  return points.size >= POINTS_MAX || space.budgetBytes !== null && volume.inheriting !== undefined
}

async function restoreGroup(teller: Teller): Promise<void> {
  const [group, members] = teller.one([...teller.world.groups]) ?? []
  if (group === undefined || !members || members.length === 0) return
  const volumes = members.map(name => teller.store.get(name)!)
  const from = teller.somePoint(volumes[0]!, ['snapshot'])
  if (from === undefined || volumes.some(volume => isFull(teller, volume) || !teller.live(volume).points.has(from))) return
  if (volumes.some(volume => teller.live(volume).points.get(from)!.kind === 'bookmark')) return
  const wishes = volumes.map(volume => ({ volume, source: volume, from, range: undefined }))
  const slow = teller.random(2) === 0 ? SLOW : {}
  await restore(teller, `restore group ${group} ${from}`, wishes, () => teller.store.restoreGroup({ group, name: from, ...slow }))
}

type Begin = () => Promise<{ readonly finished: Promise<void> }>

/** All of them at one instant. Where nothing differs there is no undo point, and nothing is made durable. */
async function restore(teller: Teller, text: string, wishes: readonly Wish[], begin: Begin): Promise<void> {
  let worlds: World[] = [teller.world]
  const undos = new Map<StoreVolume, string>()
  for (const { volume, from, source, range } of wishes) {
    const live = teller.live(volume)
    const { content } = teller.live(source).points.get(from)!
    const isIn = (sector: number): boolean => !range || sector >= range.start && sector < range.end
    const now = live.now.map((value, sector) => isIn(sector) ? content[sector] ?? value : value)
    const undo = `undo-${from}-${[1, 2, 3, 4, 5, 6].find(n => !live.points.has(`undo-${from}-${n}`))}`
    undos.set(volume, undo)
    const after: Live = withPoint({ ...live, sectors: exactly(now), now }, undo, pointOf('snapshot', live.now))
    const isSame = now.every((value, sector) => value === live.now[sector])
    worlds = worlds.flatMap(world => [...isSame ? [world] : [], withVolume(world, volume.name, after)])
  }
  const isTaken = ({ volumes }: World): boolean =>
    [...undos].every(([{ name, points }, undo]) => volumes.get(name)!.points.has(undo) === (points.get(undo) !== undefined))
  await teller.do(text, worlds, async () => {
    const { finished } = await begin()
    finished.catch(() => undefined)
    const canEnd = wishes.every(({ volume }) => teller.live(volume).space.budgetBytes === null)
    if (teller.random(2) === 0 && canEnd) await Promise.race([finished, sleep(1000)])
  }, async () => {
    // In the order of worlds the one that has most of them comes last.
    return worlds.findLast(isTaken) ?? teller.world
  })
}
