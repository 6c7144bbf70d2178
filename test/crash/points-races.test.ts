// D3, D4: points made, written around and deleted while checkpoints, reclaim and merges are at work on slow disks.
import t from 'tap'
import { slow } from './liars.js'
import { explorePoints, pointsRacesStep, type PointsPlant } from './points-harness.js'
import { countStates } from './run.js'

const STATES = Number(process.env.STATES ?? 8000)
const plant: PointsPlant = (disks, random) => ({
  ...disks, map: slow(disks.map, random), journal: slow(disks.journal, random), maps: slow(disks.maps, random),
  preserved: slow(disks.preserved, random),
})
t.test(`D3 D4 points and races: at least ${STATES} crash states`, t =>
  countStates(t, STATES, seed => explorePoints(pointsRacesStep, 4, { seed, grains: 8, plant }, 250)))
