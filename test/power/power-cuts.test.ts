// A store on a file system that loses what no fsync covers, names as well as content: a story is recorded, and at every moment of it
// the power may fail. Whatever is left opens, and holds what was answered (DESIGN D1, D3, D4, D6).
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { type Random, seededRandom } from '../../src/device/testing.js'
import { type Left, leftOf, writeLeft } from './folder-states.js'
import { RecordedFolder } from './recorded-folder.js'
import { judged, Story, type StoryNote, type World } from './store-story.js'

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
const STORIES = Number(process.env.STORIES ?? 3)
const STATES = Number(process.env.STATES ?? 40)
const LIVES = 3
const STEPS = 20

/** In memory: what the medium would do with it, these states say. */
const root = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nbdelta-power-'))
/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => {
  clearInterval(awake)
  rmSync(root, { recursive: true, force: true })
})

/** Holes are made by a child process, which nobody records: there is none. */
function hideFallocate(): void {
  const tools = join(root, 'tools')
  mkdirSync(tools)
  try {
    symlinkSync(execFileSync('/bin/sh', ['-c', 'command -v flock'], { encoding: 'utf8' }).trim(), join(tools, 'flock'))
  } catch {
    t.comment('no flock here')
  }
  process.env.PATH = tools
}

interface Life { readonly left: Left | undefined, readonly world: World }

/** One process after the other: each ends somewhere, and the next goes on with what it has left. */
async function lives(seed: number): Promise<string[]> {
  const random = seededRandom(seed)
  const wrong: string[] = []
  let life: Life = { left: undefined, world: undefined }
  for (let n = 0; n < LIVES && wrong.length === 0; n++) {
    const folder = join(root, `life-${seed}-${n}`)
    life.left ? writeLeft(life.left, folder) : mkdirSync(folder)
    const recorded = new RecordedFolder(folder, life.left)
    try {
      await new Story(join(folder, 'store'), random, recorded, life.world, n * 100).run(STEPS)
    } finally {
      recorded.stop()
    }
    rmSync(folder, { recursive: true })
    for (let i = 0; i < STATES && wrong.length < 3; i++) {
      const next = await ended(recorded, life.left?.position ?? 0, random)
      if (typeof next === 'string') wrong.push(`seed ${seed}, life ${n}, state ${i}, ${next}`)
      else life = i === STATES - 1 ? next : life
    }
  }
  return wrong
}

/** What the next life goes on with, or what is wrong with it. */
async function ended({ history, position }: RecordedFolder, from: number, random: Random): Promise<Life | string> {
  const ending = random(4) === 0 ? 'killed' : 'cut'
  // Whatever is done once is done at the beginning.
  const at = from + 1 + random(random(4) === 0 ? Math.min(100, position - from) : position - from)
  const left = leftOf(history, at, ending, random)
  const path = join(root, 'left')
  writeLeft(left, path)
  const notes = history.flatMap(({ begun, change }) => begun <= at && change.what === 'note' ? [change.note as StoryNote] : [])
  const { text, worlds } = notes.at(-1) ?? { text: 'before anything', worlds: [undefined] }
  const found = await judged(join(path, 'store'), worlds, ending)
  rmSync(path, { recursive: true })
  return typeof found === 'string' ? `${left.story}, ${text}: ${found}` : { left, world: found.world }
}

t.setTimeout(60_000 + STORIES * 60_000)
t.test(`${STATES} states of each of ${STORIES} times ${LIVES} lives`, { timeout: 60_000 + STORIES * 60_000 }, async t => {
  t.comment(`SEED=${SEED}`)
  hideFallocate()
  for (let i = 0; i < STORIES && t.passing(); i++) t.same(await lives(SEED + i), [], `seed ${SEED + i}`)
})
