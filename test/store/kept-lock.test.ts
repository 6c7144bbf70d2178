// A store stays locked for as long as it is open, also when nobody refers to it any more: descriptors are collected, locks with them.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const STORE = fileURLToPath(new URL('../../src/store/store-directory.js', import.meta.url))

/** Opens a store, drops every reference to it, collects garbage, and tries to open it again. */
const script = (path: string): string => `
  const { openStoreDirectory } = await import(${JSON.stringify(STORE)})
  await (async () => { await openStoreDirectory({ path: ${JSON.stringify(path)}, create: true }) })()
  for (let i = 0; i < 20; i++) { global.gc(); await new Promise(resolve => setTimeout(resolve, 5)) }
  const answer = await openStoreDirectory({ path: ${JSON.stringify(path)} }).then(() => 'opened', error => error.code)
  console.log(answer)
  process.exit(0)`

t.test('the lock outlives the last reference', async t => {
  const path = join(t.testdir(), 'store')
  const run = spawnSync(process.execPath, ['--expose-gc', '--input-type=module', '-e', script(path)], { encoding: 'utf8', timeout: 30_000 })
  t.equal(run.stdout.trim(), 'busy', run.stderr)
  t.notMatch(run.stderr, /garbage collection/)
})
