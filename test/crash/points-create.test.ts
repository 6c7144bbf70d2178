// D3, D4, D6: points made while requests go on: one that was answered is there and shows what it froze, whatever is cut short.
import t from 'tap'
import { createStep, POINTS } from './points-run.js'
import { runWorkload } from './run.js'

runWorkload(t, 'D3 D4 D6 creations', { ...POINTS, states: 20_000 }, createStep)
