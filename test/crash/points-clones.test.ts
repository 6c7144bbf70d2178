// D3: a clone and its base, both written to, the clone promoted or not: each shows its own in every crash state.
import t from 'tap'
import { cloneStep, POINTS } from './points-run.js'
import { runWorkload } from './run.js'

runWorkload(t, 'D3 clones', { ...POINTS, states: 12_000, clone: true }, cloneStep)
