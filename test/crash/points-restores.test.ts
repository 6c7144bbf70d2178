// A6, A15, D3: restores cut short anywhere, of all or a part, with the copier half-way and clients writing: never a mix, nothing unmarked.
import t from 'tap'
import { POINTS, restoreStep } from './points-run.js'
import { runWorkload } from './run.js'

runWorkload(t, 'A6 A15 D3 restores', { ...POINTS, states: 14_000 }, restoreStep)
