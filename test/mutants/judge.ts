// One judge of judges.ts, by name: `node dist/test/mutants/judge.js NAME SEED`. Ends with 1 and the first line of what is wrong, or with 0.
import { JUDGES, type JudgeName } from './judges.js'

const [name, seed] = process.argv.slice(2)
const wrong = await JUDGES[name as JudgeName](Number(seed))
if (wrong) console.log(wrong)
process.exit(wrong ? 1 : 0)
