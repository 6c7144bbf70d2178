// D3, D4, D6: create, write, trim, delete, checkpoint: in every crash state snapshots are exact and maps say enough.
import t from 'tap'
import { explorePoints, looseStep, pointsStep } from './points-harness.js'
import { countStates } from './run.js'

const STATES = Number(process.env.STATES ?? 8000)
t.test(`D3 D4 D6 points: at least ${STATES} crash states`, t =>
  countStates(t, STATES, seed => explorePoints(pointsStep, 24, { seed, grains: 8 }, 250)))
t.test(`D4 marks of trims: at least ${STATES / 2} crash states`, t =>
  countStates(t, STATES / 2, seed => explorePoints(looseStep, 1, { seed, grains: 8 }, 250)))
