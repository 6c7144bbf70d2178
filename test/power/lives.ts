/**
 * Lives of a folder: a story is recorded; at many moments of it the power may fail, or the process be killed; what is left then is
 * judged, and the next story goes on with one of these states. What the stories are of their own files.
 */
import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Random, seededRandom } from '../../src/device/testing.js'
import { type Ending, type Left, leftOf, writeLeft } from './folder-states.js'
import type { Punching } from './hole-puncher.js'
import { RecordedFolder } from './recorded-folder.js'

export const LIVES = 3
/** One in so many ends a second time. */
const TWICE_EVERY = 3
const PUNCHING: readonly Punching[] = ['works', 'refused', 'fails', 'absent']

/** What is done, and what must be found. `World` is all there is, as whoever has done it knows. */
export interface Tale<World, Note> {
  /** @param serial of names: none was given out from there on */
  tell(folder: string, random: Random, recorded: RecordedFolder, world: World | undefined, serial: number): Promise<void>
  /** The world that it is; a text: what is wrong. @param notes of all that had begun */
  judge(folder: string, notes: readonly Note[], ending: Ending, random: Random, left: Left): Promise<{ readonly world: World | undefined } | string>
  /** What is left when it ends there; by default leftOf. */
  readonly left?: typeof leftOf
  /** Opens what is left, lets it recover for a while, and closes it. Where it cannot, the judge says so. */
  recover(folder: string, random: Random): Promise<void>
}

interface Life<World> { readonly left: Left | undefined, readonly world: World | undefined }

export class Lives<World, Note> {
  /** In memory: what the medium would do with it, these states say. */
  readonly #root = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nbdelta-power-'))
  /** Always the same: a store knows where the files are that it has adopted. */
  readonly #here = join(this.#root, 'here')
  readonly #tale: Tale<World, Note>
  readonly #states: number

  /** @param states of each life that are judged */
  constructor(tale: Tale<World, Note>, states: number) {
    this.#tale = tale
    this.#states = states
    this.#makeTools()
  }

  /** Its files go. */
  close(): void { rmSync(this.#root, { recursive: true, force: true }) }

  /** One process after the other: each ends somewhere, and the next goes on with what it has left. Returns what is wrong. */
  async run(seed: number): Promise<string[]> {
    const random = seededRandom(seed)
    const wrong: string[] = []
    let life: Life<World> = { left: undefined, world: undefined }
    for (let n = 0; n < LIVES && wrong.length === 0; n++) {
      const recorded = await this.#lived(life, random, n).catch((error: unknown) => {
        wrong.push(`seed ${seed}, life ${n}: ${error instanceof Error ? error.stack : String(error)}`)
      })
      if (!recorded) break
      for (let i = 0; i < this.#states && wrong.length < 3; i++) {
        const next = await this.#ended(recorded, life.left?.position ?? 0, random)
        if (typeof next === 'string') wrong.push(`seed ${seed}, life ${n}, state ${i}, ${next}`)
        else life = i === this.#states - 1 ? next : life
      }
    }
    return wrong
  }

  async #lived({ left, world }: Life<World>, random: Random, n: number): Promise<RecordedFolder> {
    const folder = this.#here
    left ? writeLeft(left, folder) : mkdirSync(folder)
    const punching = PUNCHING[random(PUNCHING.length)]!
    const tools = join(this.#root, 'tools')
    process.env.PATH = punching === 'absent' ? tools : `${tools}:${join(this.#root, 'puncher')}`
    const recorded = new RecordedFolder(folder, left, punching)
    try {
      await this.#tale.tell(folder, random, recorded, world, n * 100)
    } finally {
      recorded.stop()
      process.env.PATH = tools
      rmSync(folder, { recursive: true })
    }
    return recorded
  }

  /** What the next life goes on with, or what is wrong with it. */
  async #ended({ history, position }: RecordedFolder, from: number, random: Random): Promise<Life<World> | string> {
    const ending: Ending = random(4) === 0 ? 'killed' : 'cut'
    // Whatever is done once is done at the beginning.
    const at = from + 1 + random(random(4) === 0 ? Math.min(100, position - from) : position - from)
    const once = (this.#tale.left ?? leftOf)(history, at, ending, random)
    const notes = history.flatMap(({ begun, change }) => begun <= at && change.what === 'note' ? [change.note as Note] : [])
    const { left, ending: last } = random(TWICE_EVERY) === 0 ? await this.#endedAgain(once, ending, random) : { left: once, ending }
    const path = this.#here
    writeLeft(left, path)
    const found = await this.#tale.judge(path, notes, last, random, left)
    rmSync(path, { recursive: true })
    return typeof found === 'string' ? `${left.story}, ${found}` : { left, world: found.world }
  }

  /** While what was left is being recovered. What the first cut has left is durable; a kill spares what it spares. */
  async #endedAgain(once: Left, ending: Ending, random: Random): Promise<{ readonly left: Left, readonly ending: Ending }> {
    const path = this.#here
    writeLeft(once, path)
    const recorded = new RecordedFolder(path, once)
    try {
      await this.#tale.recover(path, random)
    } finally {
      recorded.stop()
    }
    rmSync(path, { recursive: true })
    const span = recorded.position - once.position
    if (span === 0) return { left: once, ending }
    const again: Ending = random(3) === 0 ? 'killed' : 'cut'
    const left = leftOf(recorded.history, once.position + 1 + random(span), again, random)
    const { spared } = once
    const kept = again === 'killed' && spared !== undefined ? { spared } : {}
    return { left: { ...left, ...kept, story: `${once.story}, then ${left.story}` }, ending: again === 'cut' ? 'cut' : ending }
  }

  /** Nobody but the player of it punches holes, and where the tool is absent there is none. */
  #makeTools(): void {
    const [tools, puncher] = [join(this.#root, 'tools'), join(this.#root, 'puncher')]
    mkdirSync(tools)
    mkdirSync(puncher)
    // Without a lock the product goes on as well, and says so.
    const flock = execFileSync('/bin/sh', ['-c', 'command -v flock || true'], { encoding: 'utf8' }).trim()
    if (flock !== '') symlinkSync(flock, join(tools, 'flock'))
    const played = join(puncher, 'fallocate')
    writeFileSync(played, '#!/bin/sh\nexit 1\n')
    chmodSync(played, 0o755)
    process.env.PATH = tools
  }
}
