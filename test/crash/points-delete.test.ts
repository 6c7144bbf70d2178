// B6, B7: points deleted in any order: all others stay what they are, deletions cut short come to their end, nothing is left behind.
import t from 'tap'
import { deleteStep, POINTS } from './points-run.js'
import { runWorkload } from './run.js'

runWorkload(t, 'B6 B7 D3 deletions', { ...POINTS, states: 22_000 }, deleteStep)
