// Volumes of a group in a storm: points and restores of all of them, and of each, through refusals, kills and power cuts (storm-group.ts).
import { groupStorm } from './storm-group.js'
import { stormTest } from './storm-runs.js'

stormTest('all or none, at one instant, through refusals, resizes, kills and power cuts', groupStorm, { seed: 70_000, runs: 60 })
