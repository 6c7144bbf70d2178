// D1, D2: writes into holes, partial and whole, with flushes and checkpoints between: every crash state holds what was promised.
import t from 'tap'
import { runWorkload } from './run.js'
import { fillsStep } from './steps.js'

runWorkload(t, 'D1 D2 fills', { states: 45_000, sizeBytes: 12 * 4096, steps: 14 }, fillsStep)
