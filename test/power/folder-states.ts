/**
 * What may be left of a recorded folder (recorded-folder.ts) at some position of its history: when the process is killed, all that was
 * done; when the power fails, what a sync covers: content and length of a file by a sync of the file, names by one of their folder.
 *
 * Of the rest a coin is thrown, in one of these ways: all of it is there, nothing is, each change by itself (writes torn at 512 bytes);
 * of names also the first so many of all, which is what a file system with a journal leaves. What was under way may be there or not.
 */
import { closeSync, ftruncateSync, linkSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Random } from '../../src/device/testing.js'
import type { Change, Recorded } from './recorded-folder.js'

const SECTOR = 512
const WAYS = ['all', 'nothing', 'some', 'first'] as const
type Way = typeof WAYS[number]
export type Ending = 'killed' | 'cut'

type Sync = Extract<Change, { what: 'sync' }>
type Loss = Extract<Change, { what: 'lost' }>
type Naming = Extract<Change, { what: 'make' | 'link' | 'rename' | 'remove' }>
type Content = Extract<Change, { what: 'write' | 'size' }>
/** `file` is its number, unless it is a further name of one. */
interface Entry { readonly name: string, readonly within: number, readonly isFolder: boolean, readonly file: number }
type Tree = Map<number, Entry>

export interface Left {
  /** Relative to the folder, which is not among them. */
  readonly paths: ReadonlyMap<string, number>
  readonly folders: ReadonlySet<number>
  /** Of further names: the file. */
  readonly links: ReadonlyMap<number, number>
  /** What has happened to it, for whoever goes on with it. */
  readonly history: readonly Recorded[]
  readonly position: number
  readonly story: string
  /** Name of the folder at whose store the power has not failed: its process was killed. */
  readonly spared?: string
}

export function leftOf(history: readonly Recorded[], position: number, ending: Ending, random: Random): Left {
  const begun = history.filter(({ begun: at }) => at <= position)
  const nameWay = ending === 'killed' ? 'all' : WAYS[random(WAYS.length)]!
  const contentWay = ending === 'killed' ? 'all' : WAYS[random(WAYS.length - 1)]!
  const syncs = begun.filter((one): one is Recorded<Sync> => one.change.what === 'sync' && one.end <= position)
  const losses = begun.filter((one): one is Recorded<Loss> => one.change.what === 'lost')
  const isCovered = ({ begun: at, end, change }: Recorded<Naming | Content>): boolean => {
    const id = 'within' in change ? change.within : change.file
    const lostAt = losses.find(loss => loss.begun > at && loss.change.id === id)?.begun ?? Infinity
    return syncs.some(sync => sync.begun > end && sync.begun < lostAt && sync.change.id === id)
  }
  const namings = begun.filter((one): one is Recorded<Naming> => ['make', 'link', 'rename', 'remove'].includes(one.change.what))
  const open = new Set(namings.filter(one => !isCovered(one)))
  const first = new Set([...open].slice(0, random(open.size + 1)))
  const tree: Tree = new Map()
  const kept: Recorded[] = []
  const keep = ({ begun: at, end }: Recorded, change: Change): void => { kept.push({ begun: at, end: Math.min(end, position), change }) }
  for (const one of begun) {
    const { change } = one
    const isOver = one.end <= position
    if ((change.what === 'sync' || change.what === 'lost') && ending === 'killed' && isOver) keep(one, change)
    else if (change.what === 'write' || change.what === 'size') {
      for (const part of isCovered({ ...one, change }) ? [change] : partsOf(change, contentWay, isOver, random)) keep(one, part)
    } else if (change.what !== 'sync' && change.what !== 'lost' && change.what !== 'note') {
      const isThere = !open.has(one as Recorded<Naming>) || isNamed(nameWay, first.has(one as Recorded<Naming>), isOver, random)
      for (const part of isThere ? namingsOf(tree, change, isOver, random) : []) if (apply(tree, part)) keep(one, part)
    }
  }
  const all = new Set([0, ...[...tree].flatMap(([id, { file }]) => [id, file])])
  if (ending === 'cut') for (const id of all) kept.push({ begun: position + 1, end: position + 2, change: { what: 'sync', id } })
  const story = `${ending} at ${position}${ending === 'cut' ? `, of names that no sync covers ${nameWay}, of contents ${contentWay}` : ''}`
  const folders = new Set([...tree].filter(([, { isFolder }]) => isFolder).map(([id]) => id))
  const links = new Map([...tree].filter(([id, { file }]) => file !== id).map(([id, { file }]) => [id, file]))
  return { paths: new Map([...tree.keys()].map(id => [pathOf(tree, id), id])), folders, links, history: kept, position: position + 2, story }
}

function isNamed(way: Way, isFirst: boolean, isOver: boolean, random: Random): boolean {
  if (way === 'first') return isFirst
  return way === 'all' ? isOver || random(2) === 0 : way === 'some' && random(2) === 0
}

function pathOf(tree: Tree, id: number): string {
  const { name, within } = tree.get(id)!
  return within === 0 ? name : `${pathOf(tree, within)}/${name}`
}

/** Of what is in a folder that is being removed some may be gone. */
function namingsOf(tree: Tree, change: Naming, isOver: boolean, random: Random): Naming[] {
  const inside = change.what === 'remove' ? below(tree, change.id) : []
  if (change.what !== 'remove' || isOver || inside.length === 0) return [change]
  return inside.filter(() => random(2) === 0).map(id => ({ ...change, id }))
}

function below(tree: Tree, id: number): number[] {
  return [...tree].filter(([, { within }]) => within === id).flatMap(([child]) => [child, ...below(tree, child)])
}

/** False: it cannot be, for what was to be there before is not. */
function apply(tree: Tree, change: Naming): boolean {
  const isNew = change.what === 'make' || change.what === 'link'
  if (isNew ? change.within !== 0 && !tree.has(change.within) : !tree.has(change.id)) return false
  if (change.what === 'remove') return drop(tree, change.id)
  const { id, name, within } = change
  const other = [...tree].find(([, entry]) => entry.within === within && entry.name === name)?.[0]
  if (other !== undefined && other !== id) drop(tree, other)
  const file = change.what === 'link' ? change.file : tree.get(id)?.file ?? id
  tree.set(id, { name, within, file, isFolder: change.what === 'make' ? change.isFolder : tree.get(id)?.isFolder ?? false })
  return true
}

function drop(tree: Tree, id: number): true {
  for (const gone of [...below(tree, id), id]) tree.delete(gone)
  return true
}

/** What of it is there. */
function partsOf(change: Content, way: Way, isOver: boolean, random: Random): Content[] {
  if (way === 'all' && isOver) return [change]
  if (way === 'nothing' || random(3) === 0) return []
  if (change.what === 'size' || random(2) === 0) return [change]
  const { offset, data } = change
  const parts: Content[] = []
  for (let at = offset; at < offset + data.length;) {
    const end = Math.min(offset + data.length, (Math.floor(at / SECTOR) + 1) * SECTOR)
    if (random(2) === 0) parts.push({ ...change, offset: at, data: data.subarray(at - offset, end - offset) })
    at = end
  }
  return parts
}

/** @param path of a folder that is not there */
export function writeLeft({ paths, folders, links, history }: Left, path: string): void {
  mkdirSync(path, { mode: 0o700 })
  const descriptors = new Map<number, number>()
  const places = new Map<number, string>()
  for (const [name, id] of [...paths].sort(([a], [b]) => a < b ? -1 : 1)) {
    const [file, place] = [links.get(id) ?? id, join(path, name)]
    if (folders.has(id)) mkdirSync(place, { mode: 0o700 })
    else if (places.has(file)) linkSync(places.get(file)!, place)
    else {
      places.set(file, place)
      descriptors.set(file, openSync(place, 'w', 0o600))
    }
  }
  for (const { change } of history) {
    const fd = change.what === 'size' || change.what === 'write' ? descriptors.get(change.file) : undefined
    if (fd === undefined) continue
    if (change.what === 'size') ftruncateSync(fd, change.bytes)
    else if (change.what === 'write') writeSync(fd, change.data, 0, change.data.length, change.offset)
  }
  for (const fd of descriptors.values()) closeSync(fd)
}
