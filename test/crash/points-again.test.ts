// D3, D4, D6, G2: two crashes, the second in the recovery from the first or soon after: deletions and restores cut short twice.
import t from 'tap'
import { crashTwice } from './points-twice.js'
import { countStates } from './run.js'

t.setTimeout(1_800_000)
t.test('D3 D4 D6 again: at least 5000 crash states', t => countStates(t, 5_000, crashTwice))
