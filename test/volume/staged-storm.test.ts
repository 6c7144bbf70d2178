// A volume with snapshots in a storm: many requests in flight, resizes, late disks that refuse writes and flushes, kills and power cuts (storm.ts).
import { storm } from './storm.js'
import { stormTest } from './storm-runs.js'

stormTest('many requests in flight, through refusals, resizes, kills and power cuts', storm, { seed: 50_000, runs: 150 })
