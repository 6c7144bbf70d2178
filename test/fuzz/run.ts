/**
 * make fuzz: node dist/test/fuzz/run.js [--inputs N] [--seed N] [--from INDEX] [--out DIR]
 *
 * The seed is printed; (seed, index) is all it takes to make an input again. A failing run names the indices that were under
 * way, writes their bytes to DIR (default .cache/fuzz) and prints the command that replays them.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { fuzz, type FuzzResult } from './fuzz.js'
import { makeInput } from './mutate.js'

const { values } = parseArgs({
  options: {
    inputs: { type: 'string', default: '1000000' }, seed: { type: 'string' }, from: { type: 'string', default: '0' },
    out: { type: 'string', default: '.cache/fuzz' },
  },
})
const seed = values.seed === undefined ? Date.now() % 1_000_000 : Number(values.seed)
const inputs = Number(values.inputs)
const from = Number(values.from)

function save({ failure }: FuzzResult): void {
  mkdirSync(values.out, { recursive: true })
  for (const index of failure!.indices) {
    const { kind, mode, name, bytes, cuts } = makeInput(seed, index)
    const path = join(values.out, `${seed}-${index}.txt`)
    writeFileSync(path, `${kind} ${mode} ${name}, cut at [${cuts}]\n${bytes.toString('hex')}\n`)
    console.log(`saved ${path}; replay: node dist/test/fuzz/run.js --seed ${seed} --from ${index} --inputs 1`)
  }
}

console.log(`seed ${seed}, ${inputs} inputs from ${from}`)
let told = Date.now()
const result = await fuzz({
  seed, inputs, from,
  progress(done, perSecond) {
    if (Date.now() - told < 10_000) return
    told = Date.now()
    console.log(`${done} inputs, ${perSecond.toFixed(0)} a second, ${(process.memoryUsage().rss / 2 ** 20).toFixed(0)} MiB`)
  },
})
const rate = result.inputs / result.seconds
console.log(`${result.inputs} inputs in ${result.seconds.toFixed(1)} s (${rate.toFixed(0)} a second)`)
console.log(`${result.connections} connections`)
console.log(`memory ${result.grownBytes >= 0 ? '+' : ''}${(result.grownBytes / 2 ** 20).toFixed(0)} MiB since the first tenth`)
if (result.failure) {
  console.error(result.failure.error)
  save(result)
}
process.exit(result.failure ? 1 : 0)
