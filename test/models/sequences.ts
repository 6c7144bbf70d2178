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

/** What a sequence may begin with, so that fewer steps reach what needs many. */
export const PRELUDES = {
  nothing: [],
  'two snapshots': ['write across', 'snapshot', 'write part', 'trim end', 'snapshot', 'write grain'],
  'a slow restore': ['write across', 'snapshot', 'write grain', 'bookmark', 'write part', 'restore oldest slowly'],
  'a clone': ['write across', 'snapshot', 'write grain', 'clone', 'write clone'],
  'lent grains': ['write across', 'snapshot', 'trim all', 'snapshot', 'delete newest', 'write part'],
} as const satisfies Record<string, readonly string[]>

/** Depth first. Each ends after `length` more steps: something is always possible. The array is the same one each time. */
export function* leaves(model: NaiveVolume, length: number, path: Operation[]): Generator<readonly Operation[]> {
  if (length === 0) return yield path
  for (const operation of OPERATIONS) {
    if (!operation.possible(model)) continue
    const next = model.fork()
    path.push(operation)
    operation.model(next, path.length)
    yield* leaves(next, length - 1, path)
    path.pop()
  }
}

/** The prelude's operations, and the model after them. */
export function begun(prelude: keyof typeof PRELUDES): { readonly model: NaiveVolume, readonly path: Operation[] } {
  const model = new NaiveVolume(GRAIN, Buffer.alloc(SIZES[0]))
  const path = PRELUDES[prelude].map(name => OPERATIONS.find(operation => operation.name === name)!)
  for (const [i, operation] of path.entries()) operation.model(model, i + 1)
  return { model, path }
}

export interface Outcome { sequences: number, comparisons: number, wrong: string | undefined }

/** @param keep a sample: which of the sequences are run */
export async function runAll(
  prelude: keyof typeof PRELUDES, length: number, keep: () => boolean = () => true, progress: (outcome: Outcome) => void = () => undefined,
): Promise<Outcome> {
  const outcome: Outcome = { sequences: 0, comparisons: 0, wrong: undefined }
  let before: readonly Operation[] = []
  const { model, path } = begun(prelude)
  for (const operations of leaves(model, length, path)) {
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
