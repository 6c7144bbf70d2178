// D3, D4: few grains, overwritten and trimmed again and again under several snapshots: old content is durable before it goes.
import t from 'tap'
import { POINTS, preserveStep } from './points-run.js'
import { runWorkload } from './run.js'

runWorkload(t, 'D3 D4 preserving', { ...POINTS, states: 24_000 }, preserveStep)
