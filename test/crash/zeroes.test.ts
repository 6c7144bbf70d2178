// D2, D6: trims and zeroes of all kinds, writes to stale grains, reclaim: nothing trimmed comes back, nothing written is lost.
import t from 'tap'
import { runWorkload } from './run.js'
import { zeroesStep } from './steps.js'

runWorkload(t, 'D2 D6 zeroes', { states: 80_000, sizeBytes: 10 * 4096 + 1536, steps: 16 }, zeroesStep)
