// D3, D4: checkpoints and clean closes while points come and go: no map is ever behind what the journal has dropped.
import t from 'tap'
import { pointCheckpointsStep, POINTS } from './points-run.js'
import { runWorkload } from './run.js'

runWorkload(t, 'D3 D4 checkpoints of points', { ...POINTS, states: 22_000 }, pointCheckpointsStep)
