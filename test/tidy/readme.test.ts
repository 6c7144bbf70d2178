// The README's examples run as they stand: every ```js block is executed in an empty folder, every `make` target it names exists.
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from './tree.js'

const readme = readFileSync(join(ROOT, 'README.md'), 'utf8')

t.test('js examples', async t => {
  const examples = [...readme.matchAll(/```js\n([\s\S]*?)```/g)].map(match => match[1]!)
  t.ok(examples.length >= 1, 'there is an example')
  // Below the package's own root, so that `import 'nbdelta'` means this package.
  const folder = join(ROOT, '.tap', `readme-${process.pid}`)
  mkdirSync(folder, { recursive: true })
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  for (const [index, example] of examples.entries()) {
    const script = join(folder, `example-${index}.mjs`)
    writeFileSync(script, example)
    const cwd = mkdtempSync(join(tmpdir(), 'nbdelta-readme-'))
    const run = spawnSync(process.execPath, [script], { cwd, encoding: 'utf8', timeout: 60_000 })
    rmSync(cwd, { recursive: true, force: true })
    t.equal(run.status, 0, `example ${index + 1} ends well: ${run.stderr}`)
  }
})

t.test('make targets', async t => {
  const targets = new Set([...readFileSync(join(ROOT, 'Makefile'), 'utf8').matchAll(/^([a-z-]+):/gm)].map(match => match[1]))
  for (const match of readme.matchAll(/\bmake ([a-z][a-z-]*)/g)) t.ok(targets.has(match[1]), `make ${match[1]}`)
})

t.test('files it points to', async t => {
  for (const match of readme.matchAll(/\]\(([^)#:]+)\)/g)) t.doesNotThrow(() => readFileSync(join(ROOT, match[1]!)), match[1])
})
