// D4: two regions, each opened on its own: the excess of one never hides what belongs to the other.
import t from 'tap'
import { REGION_GRAINS } from '../../src/store/journal-records.js'
import { runWorkload } from './run.js'
import { zeroesStep } from './steps.js'

const border = REGION_GRAINS * 4096
const window = [border - 4 * 4096, 8 * 4096] as const
runWorkload(t, 'D4 regions', { states: 8_000, sizeBytes: border + 8 * 4096, window, steps: 12, settleEvery: 0 }, zeroesStep)
