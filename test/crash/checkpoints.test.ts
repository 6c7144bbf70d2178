// D2, D4: checkpoints and clean closes while all else goes on: the map file is never behind what the journal has dropped.
import t from 'tap'
import { runWorkload } from './run.js'
import { checkpointsStep } from './steps.js'

runWorkload(t, 'D2 D4 checkpoints', { states: 60_000, sizeBytes: 8 * 4096, steps: 24 }, checkpointsStep)
