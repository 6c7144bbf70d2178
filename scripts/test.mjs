/**
 * Runs the compiled tests with tap and prints, as the very last line, what tap counted:
 * `N passed, N failed, N skipped`. `node scripts/test.mjs [room ...]` runs only those rooms of test/.
 * Every skip is repeated with its reason just above that line, so that none passes unseen.
 * A run whose summary is missing (tap itself died) counts as one failure; no test at all is one as well.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const ROOT = new URL('../dist/test/', import.meta.url).pathname
const RAW = new URL('../.tap/raw.tap', import.meta.url).pathname

const rooms = process.argv.slice(2)
const files = (rooms.length ? rooms : ['.']).flatMap(room =>
  readdirSync(join(ROOT, room), { recursive: true })
    .filter(name => name.endsWith('.test.js'))
    .map(name => join(ROOT, room, name)))
  .sort()

mkdirSync(new URL('../.tap/', import.meta.url), { recursive: true })
const tap = spawn(process.execPath, [new URL('../node_modules/.bin/tap', import.meta.url).pathname, '--reporter=terse', `--output-file=${RAW}`, ...files],
  { stdio: ['ignore', 'pipe', 'inherit'] })

let total
for await (const line of createInterface({ input: tap.stdout })) {
  const summary = /^# \{ total: (\d+), pass: (\d+)(.*)\}/.exec(line)
  if (!summary) { console.log(line); continue }
  const field = name => Number(new RegExp(`${name}: (\\d+)`).exec(summary[3])?.[1] ?? 0)
  total = { passed: Number(summary[2]), failed: field('fail'), skipped: field('skip') + field('todo') }
}
const code = tap.exitCode ?? await new Promise(resolve => tap.on('close', resolve))
if (!total) total = { passed: 0, failed: 1, skipped: 0 }
if (code !== 0 && total.failed === 0) total.failed = 1
if (total.passed === 0 && total.failed === 0) total.failed = 1
for (const line of readFileSync(RAW, 'utf8').split('\n')) {
  const skip = /^\s*ok \d+ - (.*) # SKIP ?(.*)/i.exec(line)
  if (skip) console.log(`SKIPPED ${skip[1]}: ${skip[2] || 'no reason given'}`)
}
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
process.exitCode = total.failed > 0 ? 1 : 0
