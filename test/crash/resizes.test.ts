// D6: growing and shrinking between writes and trims: the volume has one size or the other, what was cut never comes back.
import t from 'tap'
import { runWorkload } from './run.js'
import { resizesStep } from './steps.js'

runWorkload(t, 'D6 resizes', { states: 36_000, sizeBytes: 8 * 4096, window: [0, 12 * 4096], steps: 14 }, resizesStep)
