// D1, D2, D4: a client that writes and zeroes while checkpoint, reclaim and scan run: whatever they meet in, nothing is lost.
import t from 'tap'
import { RACES, runWorkload } from './run.js'
import { racesStep } from './steps.js'

runWorkload(t, 'D1 D2 D4 races', { ...RACES, states: 45_000 }, racesStep)
