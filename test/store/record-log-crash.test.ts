// D2, D1: every crash state of random appends, syncs and rewrites, of processes killed and restarted, and crashes after
// crashes. What was promised is there, in order, nothing is invented, a mere power cut is never called damage; and one
// flipped bit on top is either harmless or reported.
import t from 'tap'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { crashStates, type CrashState } from '../../src/device/crash.js'
import { DiskArray } from '../../src/device/disk-array.js'
import { NbdeltaError } from '../../src/device/errors.js'
import { seededRandom, type Random } from '../../src/device/random.js'
import { formatRecordLog, openRecordLog } from '../../src/store/open-record-log.js'
import { IDENTITY, Life, LOG_BYTES, NOTHING, replay, type Standing } from './log-script.js'

const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
const SCRIPTS = 10
/** Of each script's states, about so many are lived on in and crashed again, and so on, this deep. */
const DEEPER = 12
const DEPTH = 3
const STATES = [900, 60, 30]
const OPERATIONS = [16, 6, 6]
t.setTimeout(120_000)
t.comment(`SEED=${SEED}`)

let flips = 0
let reported = 0

/** Three processes one after the other on the same disk, each killed in the middle of something. */
async function record(seed: number, log: MemoryDisk, standing: Standing, depth: number): Promise<DiskArray<'log', Standing>> {
  const random = seededRandom(seed)
  const array = new DiskArray<'log', Standing>({ log }, { lateFlush: random(2) === 0 })
  array.note(standing)
  let proven = standing.proven
  for (let process = 0; process < 3; process++) {
    const life = new Life(array.disk('log'), random, 10 * depth + process, proven, now => array.note(now))
    proven = (await life.live(OPERATIONS[depth])).proven
  }
  return array
}

function least({ kind }: CrashState, standing: Standing): number {
  return kind === 'kill' ? standing.acknowledged : standing.synced
}

/** Opens a state and holds it against what had been promised: at least `count` items. */
async function judge(disk: MemoryDisk, standing: Standing, count: number): Promise<number[]> {
  const opened = await openRecordLog(disk, IDENTITY)
  const found = replay(opened.records)
  if (found.length < count) throw new Error(`lost: ${found.length} items of ${count} promised`)
  if (found.length > standing.runs.length) throw new Error(`invented: ${found.length} items of ${standing.runs.length}`)
  if (!found.every((run, i) => run === standing.runs[i])) throw new Error('invented: an item of a run that had lost it')
  return found
}

/** One flipped bit, mostly where something stands: what was proven must be there, or the loss be reported. */
async function judgeFlipped(disk: MemoryDisk, standing: Standing, random: Random): Promise<void> {
  const places = [0, 4096, 8192]
  const offset = random(2) * (LOG_BYTES / 2) + places[random(3)] + random(random(2) ? 80 : 1500)
  const byte = Buffer.alloc(1)
  disk.read(offset, 1, byte, 0)
  byte[0] ^= 1 << random(8)
  disk.write(offset, 1, byte, 0)
  flips++
  try {
    await judge(disk, standing, standing.proven)
  } catch (error) {
    if (!(error instanceof NbdeltaError) || (error.code !== 'damaged' && error.code !== 'newer-format')) {
      throw new Error(`a bit flipped at ${offset}`, { cause: error })
    }
    reported++
  }
}

async function crash(seed: number, log: MemoryDisk, before: Standing, depth: number): Promise<number> {
  const array = await record(seed, log, before, depth)
  const random = seededRandom(seed + 1)
  let states = 0
  for (const state of crashStates(array, { seed, statesMax: STATES[depth] })) {
    states++
    const standing = state.notes.at(-1)!
    const deeper = depth + 1 < DEPTH && random(Math.ceil(STATES[depth] / DEEPER)) === 0 ? state.disks.log.fork() : undefined
    const rotten = random(3) === 0 ? state.disks.log.fork() : undefined
    const promised = least(state, standing)
    try {
      const runs = await judge(state.disks.log, standing, promised)
      if (rotten) await judgeFlipped(rotten, standing, random)
      // What this recovery has cut must never come back: `runs` is the truth from now on.
      const after = { runs, acknowledged: promised, synced: promised, proven: standing.proven }
      if (deeper) states += await crash(seed + 1000 + states, deeper, after, depth + 1)
    } catch (error) {
      throw new Error(`SEED=${SEED} script ${seed} depth ${depth} position ${state.position} ${state.story}`, { cause: error })
    }
  }
  return states
}

t.test('D2, D1: what was promised survives every crash state, and a crash on top of it', async t => {
  let states = 0
  for (let script = 0; script < SCRIPTS; script++) {
    const log = new MemoryDisk(LOG_BYTES)
    await formatRecordLog(log, IDENTITY)
    states += await crash(SEED + script * 7919, log, NOTHING, 0)
  }
  t.comment(`${states} states, ${flips} with a flipped bit, ${reported} of these reported as damage`)
  t.ok(states > 20_000, 'enough states to mean something')
  t.ok(reported > 1000)
})
