// D3, D4, A15: maps of more than one page, changed on both sides of a border: restores, staging and checkpoints save some of them.
import t from 'tap'
import { PAGE_BITS } from '../../native-free/grain-bitmap.js'
import { POINTS, restoreAtBorderStep } from './points-run.js'
import { runWorkload } from './run.js'

const border = PAGE_BITS * 4096
const window = [border - 3 * 4096, 6 * 4096] as const
runWorkload(t, 'A15 D3 pages', { ...POINTS, states: 4_000, sizeBytes: 3 * border + 5 * 4096, window }, restoreAtBorderStep)
