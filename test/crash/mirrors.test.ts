// Mirrors: in every crash state the target shows a point that the source had, never an older one than was declared, and after one more
// cycle both are equal (SEEDS C1, C9, C10, C13, B19, B22; DESIGN S1-S3).
import t from 'tap'
import { crashStates, seededRandom } from '../../src/device/testing.js'
import type { MemberDisks } from './group-lab.js'
import { freshDisks, Network, Node, SIZE } from '../replication/memory-lab.js'
import { GRAIN, readAll } from '../volume/lab.js'

const STATES = Number(process.env.STATES ?? 1500)
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
/** What the source had shown at each freeze so far, oldest first, and how many of them were declared for sure. */
interface Note { readonly views: readonly Buffer[], readonly declared: number, readonly far: Network['disk'] }
interface Explored { states: number, wrong: string[], mixed: number }

async function scribble(node: Node, random: (below: number) => number): Promise<void> {
  for (let i = 1 + random(4); i > 0; i--) {
    const grain = random(SIZE / GRAIN)
    if (random(5) === 0) await node.source.trim(grain * GRAIN, GRAIN)
    else await node.source.write(grain * GRAIN, 512 * (1 + random(8)), Buffer.alloc(GRAIN, 1 + random(255)), 0)
  }
}

async function explore(seed: number, statesMax: number): Promise<Explored> {
  const random = seededRandom(seed)
  const array = await freshDisks<Note>(random(2) === 0)
  const network = new Network(random)
  const node = await Node.open(Object.fromEntries(array.names.map(name => [name, array.disk(name)])) as unknown as MemberDisks, network)
  const views: Buffer[] = []
  let declared = 0
  const note = (): void => array.note({ views: [...views], declared, far: network.disk.fork() })
  network.onDone = note
  const snapshot = node.source.points.create.bind(node.source.points)
  node.source.points.create = async options => {
    // The instant of the freeze lies in between, and nobody writes meanwhile.
    if (options.kind === 'snapshot' && options.name.endsWith('-image')) {
      views.push(await readAll(node.source))
      note()
    }
    return snapshot(options)
  }
  for (let cycle = 0; cycle < 3; cycle++) {
    await scribble(node, random)
    if (cycle === 2 && random(2) === 0) {
      await node.source.points.create({ name: 's', kind: 'snapshot' })
      await scribble(node, random)
      await node.source.restore({ from: 's' })
    }
    await node.mirrors[random(3) === 0 ? 'remote' : 'local'].sync()
    declared = views.length
    note()
  }
  const result: Explored = { states: 0, wrong: [], mixed: 0 }
  for (const state of crashStates(array, { seed, statesMax })) {
    const last = state.notes.at(-1)
    if (!last) continue
    result.states++
    const far = new Network(seededRandom(seed))
    far.disk.write(0, SIZE, await readAll(last.far), 0)
    const judged = await judge(state.disks as unknown as MemberDisks, far, last).catch((error: Error) => `${error.stack}`)
    if (judged === 'mixed') result.mixed++
    else if (judged) result.wrong.push(`seed ${seed}, after event ${state.position}, ${state.story}: ${judged}`)
    if (result.wrong.length > 2) break
  }
  return result
}

/** What is wrong; `mixed`: nothing is, and the target's live image was half a cycle. */
async function judge(disks: MemberDisks, far: Network, { views }: Note): Promise<string | undefined> {
  const node = await Node.open(disks, far)
  const shown = await node.shown()
  if (shown && !views.some(view => view.equals(shown.content))) return 'the target shows what the source never was'
  const mixed = shown && !(await readAll(node.target)).equals(shown.content)
  for (const which of ['local', 'remote'] as const) {
    await node.mirrors[which].sync()
    const problem = node.mirrors[which].status().problem
    if (problem) return `${which}: ${problem}`
  }
  const now = await readAll(node.source)
  if (!(await node.shown())!.content.equals(now)) return 'the target is not what the source is'
  if (!(await readAll(far.disk)).equals(now)) return 'the far disk is not what the source is'
  const left = node.source.points.list().filter(({ labels }) => labels['mirror'] !== undefined)
  if (left.length !== 2) return `points left: ${left.map(({ name }) => name).join(', ')}`
  return mixed ? 'mixed' : undefined
}

t.setTimeout(600_000)
t.test(`a whole point, and nothing forgotten, in at least ${STATES} crash states`, { timeout: 600_000 }, async t => {
  t.comment(`seed ${SEED}`)
  const sum: Explored = { states: 0, wrong: [], mixed: 0 }
  for (let seed = SEED; sum.states < STATES && sum.wrong.length === 0; seed++) {
    const found = await explore(seed, 400)
    sum.states += found.states
    sum.mixed += found.mixed
    sum.wrong.push(...found.wrong)
  }
  t.same(sum.wrong, [])
  t.comment(`${sum.states} states; in ${sum.mixed} of them the target's own image was half a cycle`)
  t.ok(sum.mixed > 0)
})
