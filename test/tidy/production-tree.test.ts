// What ships is native-free: no addon, no binding.gyp, no install script anywhere below the production dependencies.
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from './tree.js'

interface LockEntry { readonly dev?: boolean, readonly optional?: boolean, readonly hasInstallScript?: boolean }

/** What makes a package folder native; an empty list when it is plain JavaScript. */
export function nativeTraces(folder: string): string[] {
  const found = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile() && (/\.(node|so|dylib|dll)$/.test(entry.name) || entry.name === 'binding.gyp'))
    .map(entry => join(entry.parentPath ?? entry.path, entry.name))
  const { scripts = {} } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { scripts?: Record<string, string> }
  for (const hook of ['preinstall', 'install', 'postinstall']) if (scripts[hook]) found.push(`${folder}: ${hook} script`)
  return found
}

t.test('no production dependency is native', async t => {
  const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as { packages: Record<string, LockEntry> }
  const production = Object.entries(lock.packages).filter(([path, entry]) => path !== '' && !entry.dev)
  t.ok(production.some(([path]) => path === 'node_modules/buffer-crc32'), 'the walk sees the production tree')
  for (const [path, entry] of production) {
    t.notOk(entry.hasInstallScript, `${path} has no install script`)
    const folder = join(ROOT, path)
    if (existsSync(folder)) t.strictSame(nativeTraces(folder), [], path)
  }
})

t.test('the check can fail', async t => {
  const folder = t.testdir({ 'package.json': '{"scripts":{"install":"node-gyp rebuild"}}', 'binding.gyp': '', build: { 'a.node': '' } })
  t.equal(nativeTraces(folder).length, 3)
})

t.test('our own package has no install script and no addon', async t => {
  const own = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: Record<string, string> }
  for (const hook of ['preinstall', 'install', 'postinstall', 'prepare']) t.notOk(own.scripts[hook], hook)
  t.notOk(existsSync(join(ROOT, 'binding.gyp')))
})
