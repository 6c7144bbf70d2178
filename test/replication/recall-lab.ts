/**
 * Mirrors that keep snapshots, with what crosses counted: over the link, and as data over NBD. Everything that is opened is closed when
 * its test ends, however it ends.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { StoreVolume } from '../../src/index.js'
import { seededRandom } from '../../src/device/testing.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { CreateMirrorOptions } from '../../src/replication/mirrors.js'
import { arrived, until } from './held.js'
import { fill, G, Lab, onWrite } from './lab.js'
import { changed, PeerLab } from './peer-lab.js'

export const MIB = 2 ** 20
export const SIZE = 16 * MIB
/** Of it, what is written between snapshot and restore. */
export const CHANGED = { from: MIB, to: 13 * MIB }
/** What a reference may cost on the wire. */
export const REFERENCE_BYTES_MAX = 64 * 1024
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
/** Timers of the stores do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(240_000)
t.comment(`seed ${SEED}`)
const random = seededRandom(SEED)

export interface Stand {
  readonly lab: PeerLab
  readonly volume: StoreVolume
  readonly mirror: Mirror
  readonly target: StoreVolume
  /** The volume as of the snapshot `s`. */
  readonly wanted: Buffer
  /** What has crossed: in bytes over the link and, as data, over NBD. */
  readonly link: { bytes: number, dataBytes: number, calls: string[] }
}

const opened: { close(): Promise<void> }[] = []

/** However it ends, what it has opened is closed. */
export function test(name: string, run: (t: Test) => Promise<void>): void {
  void t.test(name, async t => {
    try { await run(t) } finally { for (const lab of opened.splice(0)) await lab.close() }
  })
}

export async function peers(t: Test): Promise<PeerLab> {
  const lab = await PeerLab.open(t.testdir())
  opened.push(lab)
  return lab
}

export async function here(t: Test): Promise<Lab> {
  const lab = await Lab.open(t.testdir())
  opened.push(lab)
  return lab
}

/** `v` of noise and holes, mirrored to the peer's `w`, with a snapshot `s`; then most of it was overwritten, and shipped. */
export async function stand(t: Test, mode: CreateMirrorOptions['mode'] = 'periodic'): Promise<Stand> {
  const lab = await peers(t)
  const link = { bytes: 0, dataBytes: 0, calls: [] as string[] }
  lab.near.onLink = opened => changed(opened, async (method, params, go) => {
    const answer = await go()
    link.calls.push(method)
    link.bytes += JSON.stringify(params).length + JSON.stringify(answer).length
    return answer
  })
  lab.near.onConnect = device => {
    onWrite(device, (_, length) => { link.dataBytes += length })
    return device
  }
  const volume = await lab.near.store.createVolume({ name: 'v', sizeBytes: SIZE, grainBytes: G })
  for (let at = 0; at < SIZE; at += MIB) if (at % (4 * MIB) !== 0) await volume.write(at, MIB, noise(MIB), 0)
  const mirror = await lab.mirror({ keepSnapshots: 2, mode })
  if (mode !== 'periodic') await arrived(mirror)
  await fill(volume, 300, 3)
  const wanted = await contentOf(volume)
  await volume.points.create({ name: 's', kind: 'snapshot' })
  for (let at = CHANGED.from; at < CHANGED.to; at += MIB) await volume.write(at, MIB, noise(MIB), 0)
  await mirror.sync()
  await fill(volume, 7, 9)
  await mirror.sync()
  Object.assign(link, { bytes: 0, dataBytes: 0, calls: [] })
  return { lab, volume, mirror, target: lab.far.store.get('w')!, wanted, link }
}

export function noise(bytes: number): Buffer {
  const content = Buffer.allocUnsafe(bytes)
  for (let at = 0; at < bytes; at += 4) content.writeUInt32LE(random(2 ** 31), at)
  return content
}

export async function contentOf(device: Pick<StoreVolume, 'read' | 'sizeBytes'>): Promise<Buffer> {
  const all = Buffer.alloc(device.sizeBytes)
  await device.read(0, all.length, all, 0)
  return all
}

export async function snapshotOf(volume: StoreVolume, name: string): Promise<Buffer> {
  const device = volume.points.open(name)
  try { return await contentOf(device) } finally { await device.close() }
}

/** What clients of the secondary see. */
export async function seen({ lab, target }: Pick<Stand, 'lab' | 'target'>): Promise<Buffer> {
  return snapshotOf(target, lab.far.secondaries.shownPoint(target.uuid)!.name)
}

/** One bit of the peer's copy of `s` is another from now on, of what it has put away for it. */
export async function flipBit(t: Test, { target, wanted }: Stand, place: number): Promise<void> {
  const { seq } = target.points.get('s')!
  const file = openSync(join(t.testdirName, 'b', 'store', 'volumes', target.uuid, 'points', `${seq}`, 'preserved'), 'r+')
  const there = Buffer.alloc(G)
  await until('the peer has put away what it keeps', () => {
    readSync(file, there, 0, G, place)
    return there.equals(wanted.subarray(place, place + G))
  })
  there[100]! ^= 4
  writeSync(file, there, 0, G, place)
  closeSync(file)
}

export async function restored(volume: StoreVolume): Promise<void> { await (await volume.restore({ from: 's' })).finished }

export const decided = (mirror: Mirror, rule: string) => mirror.status().decisions.findLast(decision => decision.rule === rule)
export const copies = ({ points }: StoreVolume): string[] => points.list().filter(({ labels }) => labels['snapshot']).map(({ name }) => name)
