// A20, X1: every place in the source that writes live, and why it may: through the gate, or content-neutral.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT, sourcesBelow } from '../tidy/tree.js'

/** What calls live's write, zero, trim, punch or resize, how often, and why that is right. */
const WRITERS: Readonly<Record<string, readonly [calls: number, why: string]>> = {
  'src/volume/volume.ts': [2, 'hot path: plain grains only; by plan: after tryAdmit'],
  'src/volume/changes.ts': [5, 'write, resolve (two), keep: after admit of all grains; zeros over data: after admit of each run'],
  'src/volume/reclaim.ts': [4, 'stale grains: content-neutral'],
  'src/volume/resize.ts': [4, 'growth: holes; shrink: after admit of what is cut'],
  'src/volume/staging.ts': [1, 'what was staged: after the preserver has what snapshots need, marked'],
  'src/volume/adopter.ts': [2, 'a client\'s write to inherited grains: after admit; the copier: content-neutral, after what is lent is kept'],
  'src/volume/open-volume.ts': [1, 'cuts what a resize left behind the end'],
}

t.test('every writer of live is listed', async t => {
  for (const { path } of sourcesBelow('src')) {
    if (!path.startsWith('src/volume/')) continue
    const text = readFileSync(join(ROOT, path), 'utf8')
    const calls = [...text.matchAll(/\blive\.(write|zero|trim|punch|resize)\(/g)].length
    t.equal(calls, WRITERS[path]?.[0] ?? 0, `${path}: ${WRITERS[path]?.[1] ?? 'does not write live'}`)
  }
})

t.test('the gate stands in front of each change in changes.ts', async t => {
  const text = readFileSync(join(ROOT, 'src/volume/changes.ts'), 'utf8')
  for (const method of ['async write(', 'async #keep(', 'async #zerosOverData(']) {
    const body = text.slice(text.indexOf(method))
    const gate = body.indexOf('gate.admit(')
    const live = body.search(/live\.(write|zero)\(/)
    t.ok(gate > 0 && gate < live, `${method.slice(6, -1)} asks before it writes`)
  }
})
