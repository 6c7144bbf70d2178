/**
 * Plants the faults of test/mutants/list.ts one at a time in a copy of what was compiled, and runs the test that has to see each.
 * Prints a table; ends with 1 when one survives, or when the judges find something in the code as it is. MUTANTS=word takes those
 * whose name, or the name of whose judge, has the word; SEED is 1 by default, for which docs/mutants.md says what was caught.
 */
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { $ as zx } from './zx.js'
import { MUTANTS, type Mutant } from '../test/mutants/list.js'

/** dist/scripts -> the root of the checkout. */
const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const SEED = Number(process.env['SEED'] ?? 1)
/** What survives costs its judge's whole budget. A fault that makes it hang is caught as well. */
const JUDGE_MS = 600_000
/** Whoever ends this ends its judge as well, which may be in an endless loop. */
const ended = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => { ended.abort() })
const $ = zx({ quiet: true, nothrow: true, timeout: JUDGE_MS, timeoutSignal: 'SIGKILL', killSignal: 'SIGKILL', signal: ended.signal })

interface Outcome { readonly caught: boolean, readonly seconds: number, readonly words: string }

async function judged(copy: string, judge: string): Promise<Outcome> {
  const startedMs = performance.now()
  const file = judge.includes('/')
  const command = file ? [`dist/test/${judge}.test.js`] : ['dist/test/mutants/judge.js', judge, String(SEED)]
  const { exitCode, stdout, stderr } = await $({ cwd: copy })`${process.execPath} ${command}`
  if (ended.signal.aborted) throw new Error('it was ended')
  const [words = ''] = `${stdout}${stderr}`.split('\n').filter(line => file ? line.includes('not ok') : line.trim() !== '')
  return { caught: exitCode !== 0, seconds: (performance.now() - startedMs) / 1000, words: exitCode === null ? 'it hangs' : words }
}

async function planted(copy: string, { file, find, put, times = 1 }: Mutant, run: () => Promise<Outcome>): Promise<Outcome> {
  const path = join(copy, 'dist/src', file)
  const right = await readFile(path, 'utf8')
  const parts = right.split(find)
  if (parts.length !== times + 1) throw new Error(`the list is out of date: ${file} has ${parts.length - 1} times: ${find}`)
  await writeFile(path, parts.join(put))
  try {
    return await run()
  } finally {
    await writeFile(path, right)
  }
}

const wanted = MUTANTS.filter(({ name, judge }) => `${name} (${judge})`.includes(process.env['MUTANTS'] ?? ''))
const copy = await mkdtemp(join(tmpdir(), 'nbdelta-mutants-'))
let survivors = 0
try {
  for (const folder of ['src', 'native-free', 'test']) await cp(join(ROOT, 'dist', folder), join(copy, 'dist', folder), { recursive: true })
  await cp(join(ROOT, 'bin'), join(copy, 'bin'), { recursive: true })
  await cp(join(ROOT, 'package.json'), join(copy, 'package.json'))
  await symlink(join(ROOT, 'node_modules'), join(copy, 'node_modules'))
  console.log(`seed ${SEED}`)
  for (const judge of new Set(wanted.map(mutant => mutant.judge))) {
    const { caught, seconds, words } = await judged(copy, judge)
    if (caught) throw new Error(`${judge} finds fault with the code as it is: ${words}`)
    console.log(`unplanted ${judge.padEnd(11)}  ${`${seconds.toFixed(1)} s`.padStart(8)}`)
  }
  for (const mutant of wanted) {
    const { caught, seconds, words } = await planted(copy, mutant, () => judged(copy, mutant.judge))
    if (!caught) survivors++
    const row = [caught ? 'caught' : 'SURVIVED', mutant.judge.padEnd(11), `${seconds.toFixed(1)} s`.padStart(8), mutant.name]
    console.log(`${row[0].padEnd(8)}  ${row.slice(1).join('  ')}\n${' '.repeat(33)}${words.slice(0, 150)}`)
  }
  console.log(`${wanted.length - survivors} of ${wanted.length} caught`)
} finally {
  await rm(copy, { recursive: true, force: true })
}
process.exitCode = survivors > 0 ? 1 : 0
