// The faults of `make mutants` can still be planted: what each replaces is in the compiled file as often as the list says, and makes a change.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from '../tidy/tree.js'
import { JUDGES } from './judges.js'
import { MUTANTS } from './list.js'

t.test('every entry still fits the code', async t => {
  const stale = MUTANTS.flatMap(({ name, file, find, times = 1 }) => {
    const found = readFileSync(join(ROOT, 'dist/src', file), 'utf8').split(find).length - 1
    return found === times ? [] : [`${name}: ${file} has ${found} times, not ${times}: ${find}`]
  })
  t.strictSame(stale, [])
})

t.test('names are unique, and nothing is replaced by itself', async t => {
  t.equal(new Set(MUTANTS.map(({ name }) => name)).size, MUTANTS.length)
  t.strictSame(MUTANTS.filter(({ find, put }) => find === put), [])
  t.strictSame(Object.keys(JUDGES).filter(judge => !MUTANTS.some(mutant => mutant.judge === judge)), [], 'judges without a fault')
})
