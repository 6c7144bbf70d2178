// D4: after any crash a map says too much of the extents that were written to, and of nothing else.
import t from 'tap'
import { EXTENT_GRAINS } from '../../src/store/journal-records.js'
import { POINTS, preserveAtBorderStep } from './points-run.js'
import { runWorkload } from './run.js'

const border = 2 * EXTENT_GRAINS * 4096
const window = [border - 3 * 4096, 6 * 4096] as const
runWorkload(t, 'D4 excess', { ...POINTS, states: 4_000, sizeBytes: 5 * EXTENT_GRAINS * 4096, window, settleEvery: 0 }, preserveAtBorderStep)
