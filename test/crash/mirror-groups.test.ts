// A group of mirrors is split and brought together by one durable record each: in every crash state all members are split, at one
// instant, or none is; and all of them go on (SEEDS D3).
import t from 'tap'
import { crashStates, seededRandom } from '../../src/device/testing.js'
import type { MemberDisks } from './group-lab.js'
import { freshDisks, Network, Node, SIZE } from '../replication/memory-lab.js'
import { GRAIN, readAll } from '../volume/lab.js'

const STATES = Number(process.env.STATES ?? 600)
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
/** What the source showed when it was frozen for the split, and what is under way. */
interface Note { readonly step: 'before' | 'splitting' | 'split' | 'resync', readonly frozen: Buffer | undefined, readonly far: Network['disk'] }
type Counts = Record<'split' | 'paired' | 'releasing' | 'resyncing', number>

async function explore(seed: number, counts: Counts): Promise<string[]> {
  const random = seededRandom(seed)
  const array = await freshDisks<Note>(random(2) === 0)
  const network = new Network(random)
  const node = await Node.open(Object.fromEntries(array.names.map(name => [name, array.disk(name)])) as unknown as MemberDisks, network)
  const scribble = (): Promise<void> => {
    const data = Buffer.alloc(GRAIN, 1 + random(255))
    return Promise.resolve(node.source.write(random(SIZE / GRAIN) * GRAIN, 512 * (1 + random(8)), data, 0))
  }
  let step: Note['step'] = 'before'
  let frozen: Buffer | undefined
  const note = (): void => array.note({ step, frozen, far: network.disk.fork() })
  network.onDone = note
  for (const mirror of Object.values(node.mirrors)) {
    await scribble()
    await mirror.sync()
  }
  await scribble()
  await scribble()
  node.beforeFreeze = async () => { frozen = await readAll(node.source) }
  step = 'splitting'
  note()
  await node.group.split({ atOnce: false })
  step = 'split'
  note()
  await scribble()
  await node.writeApart(random(SIZE / GRAIN) * GRAIN, 512, Buffer.alloc(512, 7), 0)
  step = 'resync'
  note()
  await node.group.beginResync({ whole: false })
  const wrong: string[] = []
  for (const state of crashStates(array, { seed, statesMax: 300 })) {
    const last = state.notes.at(-1)
    if (!last || last.step === 'before') continue
    const far = new Network(seededRandom(seed))
    far.disk.write(0, SIZE, await readAll(last.far), 0)
    const judged = await judge(state.disks as unknown as MemberDisks, far, last, counts).catch((error: Error) => `${error.stack}`)
    if (judged) wrong.push(`seed ${seed}, after event ${state.position}, ${state.story}: ${judged}`)
    if (wrong.length > 2) break
  }
  return wrong
}

async function judge(disks: MemberDisks, far: Network, { step, frozen }: Note, counts: Counts): Promise<string | undefined> {
  const node = await Node.open(disks, far)
  const mirrors = Object.values(node.mirrors)
  const [phase, ...others] = [...new Set(mirrors.map(({ state }) => state.phase))]
  if (others.length > 0) return `one is ${phase}, another ${others.join()}`
  if (phase === 'paired' && step !== 'splitting') return 'what was answered is forgotten'
  counts[phase as keyof Counts]++
  if (phase === 'split') {
    if (mirrors.some(({ isApart }) => !isApart)) counts.releasing++
    for (const mirror of mirrors) {
      await mirror.inTurn(undefined, turn => turn.release(), false)
      if (!mirror.isApart) return `${mirror.record.name} was not told`
    }
    if (step === 'splitting' && !(await readAll(node.target)).equals(frozen!)) return 'the volume is not at the instant'
    if (step !== 'resync' && !(await readAll(far.disk)).equals(frozen!)) return 'the far disk is not at the instant'
    await node.group.beginResync({ whole: false })
  }
  return together(node, far)
}

async function together(node: Node, far: Network): Promise<string | undefined> {
  await node.group.sync()
  const now = await readAll(node.source)
  if (!(await node.shown())!.content.equals(now)) return 'the volume is not what the source is'
  if (!(await readAll(far.disk)).equals(now)) return 'the far disk is not what the source is'
  const left = node.source.points.list().filter(({ labels }) => labels['mirror'] !== undefined)
  return left.length === 2 ? undefined : `points left: ${left.map(({ name }) => name).join(', ')}`
}

t.setTimeout(600_000)
t.test(`all or none, in at least ${STATES} crash states`, { timeout: 600_000 }, async t => {
  t.comment(`seed ${SEED}`)
  const counts: Counts = { split: 0, paired: 0, releasing: 0, resyncing: 0 }
  const wrong: string[] = []
  for (let seed = SEED; counts.split + counts.paired + counts.resyncing < STATES && wrong.length === 0; seed++) {
    wrong.push(...await explore(seed, counts))
  }
  t.same(wrong, [])
  t.comment(`split ${counts.split}, of these ${counts.releasing} with a target that was not told; paired ${counts.paired}, resyncing ${counts.resyncing}`)
  for (const phase of ['split', 'paired', 'releasing', 'resyncing'] as const) t.ok(counts[phase] > 0, phase)
})
