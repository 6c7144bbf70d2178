// Nothing committed depends on one machine: no absolute work path, no registry or mirror host in the lock file or npm settings.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from './tree.js'

/** Lines that name a download address or this checkout's own folder. */
export function localNames(text: string): string[] {
  return text.split('\n').filter(line => /"resolved":|^registry=|https?:\/\/(registry|deb|mirror)\./.test(line) || (ROOT.length > 6 && line.includes(ROOT)))
}

t.test('tracked files name no host and no local path', async t => {
  const files = execFileSync('git', ['-C', ROOT, 'ls-files'], { encoding: 'utf8' }).split('\n').filter(name => name && !/fixtures\/|no-local-names/.test(name))
  t.ok(files.length > 20)
  for (const name of files) {
    let text: string
    try { text = readFileSync(join(ROOT, name), 'utf8') } catch { continue }
    t.strictSame(localNames(text), [], name)
  }
})

t.test('the check can fail', async t => {
  t.equal(localNames('  "resolved": "https://example.invalid/x.tgz"').length, 1)
})
