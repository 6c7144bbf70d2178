// D3, D6: a volume with points that grows and shrinks: what is cut off stays in the snapshots.
import t from 'tap'
import { pointResizesStep, POINTS } from './points-run.js'
import { runWorkload } from './run.js'

runWorkload(t, 'D3 D6 resizes under points', { ...POINTS, states: 20_000, window: [0, 9 * 4096] }, pointResizesStep)
