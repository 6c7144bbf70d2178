// D1, D2, D3, D4: what waits in the staging log, and whatever meets it there: it is neither lost nor comes back.
import t from 'tap'
import { POINTS, RACING, stagedRacesStep, stagedStep } from './points-run.js'
import { runWorkload } from './run.js'

runWorkload(t, 'D1-D4 staged', { ...POINTS, steps: 16, staged: true, states: 18_000 }, stagedStep)
runWorkload(t, 'D1-D4 staged around a new point', { ...POINTS, ...RACING, staged: true, states: 18_000 }, stagedRacesStep)
