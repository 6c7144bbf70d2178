// D2, D4: many checkpoints and clean closes while everything else goes on: the map file is never behind what the journal has dropped.
import t from 'tap'
import { runWorkload } from './run.js'
import { checkpointsStep } from './steps.js'

runWorkload(t, 'checkpoints', { states: 25_000, sizeBytes: 8 * 4096, steps: 24 }, checkpointsStep)
