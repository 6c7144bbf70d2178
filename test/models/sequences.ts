/**
 * All sequences of operations up to a length, each judged after each of its steps once.
 *
 * The model alone says which operations make sense, so the tree is walked with it; of the product only whole sequences
 * are run, from a fresh volume, for what it remembers in memory must be that of an unbroken life. A prefix that two
 * sequences share is compared in the first of them.
 */
import { NaiveVolume } from './naive-volume.js'
import { OPERATIONS, SIZES, type Operation } from './operations.js'
import { Subject } from './subject.js'

export const GRAIN = 4096

/** Depth first. Each ends at `length`: something is always possible. The array is the same one each time. */
function* leaves(model: NaiveVolume, length: number, path: Operation[] = []): Generator<readonly Operation[]> {
  if (path.length === length) return yield path
  for (const operation of OPERATIONS) {
    if (!operation.possible(model)) continue
    const next = model.fork()
    path.push(operation)
    operation.model(next, path.length)
    yield* leaves(next, length, path)
    path.pop()
  }
}

export interface Outcome { sequences: number, comparisons: number, wrong: string | undefined }

/** @param keep a sample: which of the sequences are run */
export async function runAll(length: number, keep: () => boolean = () => true, progress: (outcome: Outcome) => void = () => undefined): Promise<Outcome> {
  const outcome: Outcome = { sequences: 0, comparisons: 0, wrong: undefined }
  let before: readonly Operation[] = []
  for (const operations of leaves(new NaiveVolume(GRAIN, Buffer.alloc(SIZES[0])), length)) {
    if (!keep()) continue
    const shared = operations.findIndex((operation, i) => operation !== before[i])
    outcome.wrong = await runOne(operations, shared, outcome)
    before = [...operations]
    outcome.sequences++
    progress(outcome)
    if (outcome.wrong) break
  }
  return outcome
}

async function runOne(operations: readonly Operation[], shared: number, outcome: Outcome): Promise<string | undefined> {
  const subject = await Subject.open({ sizeBytes: SIZES[0], grainBytes: GRAIN })
  const model = new NaiveVolume(GRAIN, Buffer.alloc(SIZES[0]))
  for (const [index, operation] of operations.entries()) {
    const told = (why: unknown): string =>
      `${operations.slice(0, index + 1).map(({ name }) => name).join('; ')}: ${why instanceof Error ? why.stack : why}`
    try {
      await operation.run(subject, model, index + 1)
      operation.model(model, index + 1)
      if (index < shared) continue
      outcome.comparisons++
      const why = await subject.wrong(model)
      if (why) return told(why)
    } catch (error) {
      return told(error)
    }
  }
  return undefined
}
