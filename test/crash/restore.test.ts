// A14, A15, D1, D2, D3, D6: restores, with clients writing while they copy: in every crash state all of it has happened or nothing.
import t from 'tap'
import { explorePoints, restoreStep } from './points-harness.js'
import { countStates } from './run.js'

const STATES = Number(process.env.STATES ?? 1600)
t.test(`A14 A15 restores: at least ${STATES} crash states`, t =>
  countStates(t, STATES, seed => explorePoints(restoreStep, 24, { seed, grains: 8 }, 250)))
