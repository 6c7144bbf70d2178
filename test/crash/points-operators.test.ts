// D3, D4: clients, an operator and the background at once, on disks that answer late: they meet between any two steps of each other.
import t from 'tap'
import { pointRacesStep, POINTS, RACING } from './points-run.js'
import { runWorkload } from './run.js'

runWorkload(t, 'D3 D4 D6 races around points', { ...POINTS, ...RACING, states: 16_000 }, pointRacesStep)
