/**
 * The tables of two of the source documents, as far as they are about mirrors (DESIGN section 2), on real ones, state by state.
 *
 * Pairs and differential bitmaps (004, T2 of FIG. 3A and 3B): DUPLEX is `paired`. The pairs whose updates are being backed up have their
 * writes diverted while a disk is copied, and the copies come back by their bitmaps: of mirrors that is a split and its resync, by what
 * either side has changed. Not here: RAID groups, the work disks' log and its address map (T1, T4 to T7), for there is no diversion.
 * Named mirrors (003): a command names a mirror, and changes it and no other; what it does by state is the table of docs/mirrors.md. Not
 * here: one command that names several mirrors and splits them at one instant, which there is not.
 */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Mirror } from '../../src/replication/mirror.js'
import { fill, G, Lab, shown } from './lab.js'

const GRAINS = 12
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))

const NOTHING = '0'.repeat(GRAINS)

/** PRIMARY VOLUME#, SECONDARY VOLUME#, PAIRING STATUS, DIFFERENTIAL BITMAP. */
type PairRow = readonly [primary: string, secondary: string, status: string, bitmap: string]
const FIG_3A: readonly PairRow[] = [['4', '7', 'paired', '010000100000'], ['5', '8', 'paired', '100000010000']]
const BACKED_UP: readonly PairRow[] = [
  ['1', '13', 'split', '110000100011'], ['2', '14', 'split', '100001000000'], ['3', '15', 'split', NOTHING],
]

const pairName = (primary: string): string => `pair${primary}`

/** The differential bitmap of a pair: what either side has changed since they were alike. */
function bitmapOf(lab: Lab, mirror: Mirror): string {
  const volume = lab.store.get(lab.mirrors.sourceOf(mirror))!
  const base = volume.points.list().find(({ uuid }) => uuid === mirror.state.base!.point)!
  const map = volume.points.changedMap(base.name)
  if (mirror.state.phase === 'split') map.or(lab.store.get(mirror.targetLabel())!.points.changedMap(mirror.shownPoint()!.name))
  return Array.from({ length: GRAINS }, (_, grain) => map.get(grain) ? '1' : '0').join('')
}

const rowOf = (lab: Lab, mirror: Mirror): PairRow =>
  [lab.mirrors.sourceOf(mirror), mirror.targetLabel(), mirror.state.phase, bitmapOf(lab, mirror)]

async function pair(lab: Lab, [primary, secondary]: PairRow): Promise<Mirror> {
  await fill(await lab.volume(primary, GRAINS), 0, 1, GRAINS)
  return lab.mirror({ name: pairName(primary), volume: primary, target: secondary })
}

const grainsOf = (bitmap: string): number[] => [...bitmap].flatMap((digit, grain) => digit === '1' ? [grain] : [])

t.test('pairs and their differential bitmaps (T2, FIG. 3A and 3B)', async t => {
  const lab = await Lab.open(t.testdir())
  const is = (what: string, rows: readonly PairRow[]): void => {
    const found = rows.map(([primary]) => rowOf(lab, lab.mirrors.get(pairName(primary))))
    t.comment(what)
    for (const [primary, secondary, status, bitmap] of found) t.comment(`  ${primary.padEnd(3)} ${secondary.padEnd(3)} ${status.padEnd(7)} ${bitmap}`)
    t.strictSame(found, rows, what)
  }
  const alike = (rows: readonly PairRow[]): PairRow[] => rows.map(([primary, secondary]) => [primary, secondary, 'paired', NOTHING])
  const all = [...FIG_3A, ...BACKED_UP]
  for (const row of FIG_3A) await pair(lab, row)
  is('both sides are alike', alike(FIG_3A))
  for (const [primary, , , bitmap] of FIG_3A) for (const grain of grainsOf(bitmap)) await fill(lab.store.get(primary)!, grain, 2)
  is('FIG. 3A', FIG_3A)

  for (const row of BACKED_UP) {
    const mirror = await pair(lab, row)
    await mirror.split({ atOnce: false })
  }
  is('the pairs to be backed up, just split', [...FIG_3A, ...BACKED_UP.map(([a, b, status]): PairRow => [a, b, status, NOTHING])])
  // On one side, on the other, in turn: the bitmap is of both.
  for (const [primary, secondary, , bitmap] of BACKED_UP) {
    for (const [i, grain] of grainsOf(bitmap).entries()) await fill(lab.store.get(i % 2 === 0 ? primary : secondary)!, grain, 3)
  }
  is('FIG. 3B', all)

  for (const [primary, , , bitmap] of BACKED_UP) {
    const mirror = lab.mirrors.get(pairName(primary))
    t.equal(await mirror.differing(), grainsOf(bitmap).length * G)
    await mirror.beginResync({ whole: false })
    await mirror.sync()
    t.equal(mirror.status().last!.differing, grainsOf(bitmap).length * G, `${primary}: what its bitmap says is looked at, and nothing else`)
  }
  is('they are together again, and the first two as they were', [...FIG_3A, ...alike(BACKED_UP)])
  for (const [primary, , , bitmap] of FIG_3A) {
    const mirror = lab.mirrors.get(pairName(primary))
    await mirror.sync()
    t.match(mirror.status().last, { differing: 2 * G, data: 2 * G }, `${primary}: ${bitmap} has crossed`)
  }
  is('all are alike', alike(all))
  for (const [primary, secondary] of all) t.same(await shown(lab.store.get(secondary)!), await shown(lab.store.get(primary)!))
  await lab.close()
})

/** Of docs/mirrors.md: what is done with a command, by command and state. */
function pageTable(): (verb: string, phase: string) => string {
  const page = readFileSync(fileURLToPath(new URL('../../../docs/mirrors.md', import.meta.url)), 'utf8')
  const lines = page.split('\n').filter(line => line.startsWith('|')).map(line => line.split('|').slice(1, -1).map(cell => cell.trim()))
  const head = lines.findIndex(cells => cells.includes('resyncing') && cells[0] === '')
  return (verb, phase) => {
    const row = lines.slice(head).find(cells => cells[0] === verb)
    const verdict = row?.[lines[head]!.indexOf(phase)]
    if (!verdict) throw new Error(`the page does not say what ${verb} does while ${phase}`)
    return verdict
  }
}

const COMMANDS: Readonly<Record<string, (lab: Lab, mirror: Mirror) => Promise<unknown>>> = {
  sync: (_, mirror) => mirror.sync(),
  pause: (_, mirror) => mirror.pause(),
  resume: (_, mirror) => mirror.resume(),
  split: (_, mirror) => mirror.split({ atOnce: false }),
  resync: async (_, mirror) => {
    const { phase } = mirror.state
    await mirror.beginResync({ whole: false })
    return mirror.state.phase !== phase
  },
  reverse: async (lab, mirror) => (await lab.mirrors.together([mirror.record.name]).reverse()).finished,
  verify: (_, mirror) => mirror.verify(),
  delete: (lab, mirror) => lab.mirrors.delete(mirror.record.name),
}

/** By name of the mirror: a command, and the state that it leaves. */
const WALK: readonly (readonly [name: string, verb: string, after: string])[] = [
  ['app-log', 'sync', 'paired'], ['app-log', 'resync', 'paired'], ['app-log', 'reverse', 'paired'], ['app-log', 'pause', 'paired'],
  ['app-log', 'pause', 'paired'], ['app-log', 'resume', 'paired'], ['app-log', 'resume', 'paired'],
  ['app-data', 'split', 'split'], ['app-data', 'split', 'split'], ['app-data', 'sync', 'split'], ['app-data', 'verify', 'split'],
  ['app-data', 'pause', 'split'], ['app-data', 'resume', 'split'], ['app-log', 'split', 'split'], ['app-data', 'resync', 'resyncing'],
  ['app-data', 'split', 'resyncing'], ['app-data', 'reverse', 'resyncing'], ['app-data', 'verify', 'resyncing'],
  ['app-data', 'resync', 'resyncing'], ['app-data', 'pause', 'resyncing'], ['app-data', 'resume', 'resyncing'], ['app-data', 'sync', 'paired'],
  ['app-data', 'verify', 'paired'], ['app-log', 'reverse', 'paired'], ['app-log', 'delete', 'gone'], ['app-data', 'delete', 'gone'],
]
/** A command again where nothing is left to do, though the table takes it. */
const AGAIN_IS_NOTHING = ['pause', 'resume']

t.test('named mirrors: every command that there is, by name, in the states that a test system goes through (FIG. 6, 8, 9)', async t => {
  const lab = await Lab.open(t.testdir())
  const verdictOf = pageTable()
  const rows = (): Record<string, string> => Object.fromEntries(lab.mirrors.list().map(mirror =>
    [mirror.record.name, `${lab.mirrors.sourceOf(mirror)} -> ${mirror.targetLabel()}, ${mirror.state.phase}${mirror.state.paused ? ', paused' : ''}`]))
  for (const name of ['app-data', 'app-log']) {
    await fill(await lab.volume(name.slice(4), GRAINS), 0, 1, GRAINS)
    const mirror = await lab.mirror({ name, volume: name.slice(4), target: `${name.slice(4)}-copy` })
    // A resync goes on when the walk says so.
    await mirror.pause()
  }
  t.strictSame(rows(), { 'app-data': 'data -> data-copy, paired, paused', 'app-log': 'log -> log-copy, paired, paused' })
  await lab.mirrors.get('app-log').resume()
  for (const [name, verb, after] of WALK) {
    const mirror = lab.mirrors.get(name)
    const { phase, paused } = mirror.state
    const others = Object.entries(rows()).filter(([other]) => other !== name)
    const wanted = AGAIN_IS_NOTHING.includes(verb) && paused === (verb === 'pause') ? 'nothing' : verdictOf(verb, phase)
    const found = await COMMANDS[verb]!(lab, mirror).then(changed => changed === false ? 'nothing' : 'accept',
      (error: { code?: string }) => error.code === 'wrong-state' ? 'reject' : String(error))
    t.equal(found, wanted, `${verb} ${name} while ${phase}: ${wanted}`)
    const left = lab.mirrors.list().find(({ record }) => record.name === name)
    t.equal(left?.state.phase ?? 'gone', after, `it is ${after}`)
    t.strictSame(Object.entries(rows()).filter(([other]) => other !== name), others, 'no other has changed')
  }
  for (const name of ['data', 'log']) t.same(await shown(lab.store.get(`${name}-copy`)!), await shown(lab.store.get(name)!), 'a deleted mirror leaves two volumes')
  await lab.close()
})
