/**
 * Runs the compiled tests with tap and prints one line a file, what failed with its details, every skip with its
 * reason, and as the very last line what tap counted: `N passed, N failed, N skipped`.
 *
 *   node scripts/test.mjs [ROOM...]      only those folders of test/
 *
 * The whole TAP stream is kept in .tap/raw.tap. A run whose summary is missing (tap itself died) counts as one
 * failure; no test at all is one as well.
 */
import { spawn } from 'node:child_process'
import { createWriteStream, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const TESTS = join(ROOT, 'dist/test')
/** Lines of details shown for one failed assertion. */
const DETAIL_LINES = 30

const rooms = process.argv.slice(2)
const files = (rooms.length ? rooms : ['.']).flatMap(room =>
  readdirSync(join(TESTS, room), { recursive: true })
    .filter(name => name.endsWith('.test.js'))
    .map(name => join(TESTS, room, name)))
  .sort()

mkdirSync(join(ROOT, '.tap'), { recursive: true })
const raw = createWriteStream(join(ROOT, '.tap/raw.tap'))
const tap = spawn(process.execPath, [join(ROOT, 'node_modules/.bin/tap'), '--reporter=tap', ...files],
  { stdio: ['ignore', 'pipe', 'inherit'], cwd: ROOT })
const ended = new Promise(resolve => { tap.on('close', resolve) })

let total
let details = 0
const failures = []
const skips = []
for await (const line of createInterface({ input: tap.stdout })) {
  raw.write(`${line}\n`)
  if (/^(not )?ok \d+ - /.test(line)) console.log(line.replace(`${TESTS}/`, '').replace('dist/test/', ''))
  const skip = /^\s*ok \d+ - (.*) # SKIP ?(.*)/i.exec(line)
  if (skip) skips.push(`SKIPPED ${skip[1]}: ${skip[2] || 'no reason given'}`)
  if (/^\s*not ok /.test(line)) details = DETAIL_LINES
  if (details-- > 0) failures.push(line)
  const summary = /^# \{ total: (\d+), pass: (\d+)(.*)\}/.exec(line)
  if (!summary) continue
  const field = name => Number(new RegExp(`${name}: (\\d+)`).exec(summary[3])?.[1] ?? 0)
  total = { passed: Number(summary[2]), failed: field('fail'), skipped: field('skip') + field('todo') }
}
const code = await ended
raw.end()

total ??= { passed: 0, failed: 1, skipped: 0 }
if (total.failed === 0 && (code !== 0 || total.passed === 0)) total.failed = 1
if (failures.length > 0) console.log(`\nFailed:\n${failures.join('\n')}\n`)
for (const skip of skips) console.log(skip)
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exitCode = total.failed > 0 ? 1 : 0
