// D2, D6: writes and zeroes over what was trimmed before: old bytes never show, whatever reached the medium in which order.
import t from 'tap'
import { runWorkload } from './run.js'
import { staleStep } from './steps.js'

runWorkload(t, 'D2 D6 stale', { states: 36_000, sizeBytes: 4 * 4096, steps: 14 }, staleStep)
