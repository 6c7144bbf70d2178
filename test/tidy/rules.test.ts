// Each tidy rule is shown a planted fault: a rule that cannot fail is a defect.
import t from 'tap'
import {
  FUNCTION_LINES_MAX, LINE_COLUMNS_MAX, FILE_LINES_MAX,
  bannedViolations, floorViolations, functionViolations, headerViolations, lengthViolations, packageViolations, roofViolations, unreachable, unusedExports,
} from './rules.js'

const at = (path: string, text: string) => ({ path, text })

t.test('floors', async t => {
  t.match(floorViolations(at('src/nbd/a.ts', `import { x } from '../volume/volume.js'`))[0], /may not import/)
  t.match(floorViolations(at('native-free/a.ts', `import { x } from '../src/device/clock.js'`))[0], /may not import/)
  t.match(floorViolations(at('src/cli/a.ts', `await import('../control/server.js')`))[0], /may not import/)
  t.strictSame(floorViolations(at('src/volume/a.ts', `import { x } from '../device/clock.js'`)), [])
})
t.test('the roof', async t => {
  for (const target of ['replication/volume-target', 'volume/free-name', 'device/clock', 'cli/remote']) {
    t.match(roofViolations(at('src/daemon-a.ts', `import { x } from './${target}.js'`)), [/src\/index only/], target)
  }
  t.strictSame(roofViolations(at('src/daemon-a.ts', `import { x } from './index.js'\nimport './control/jobs.js'\nimport './daemon-b.js'`)), [])
  t.strictSame(roofViolations(at('src/index.ts', `export { x } from './volume/free-name.js'`)), [])
})
t.test('packages on the ground floor', async t => {
  t.equal(packageViolations(at('native-free/a.ts', `import p from 'pino'`)).length, 1)
  t.equal(packageViolations(at('native-free/checksum.ts', `import crc from 'buffer-crc32'`)).length, 0)
})
t.test('lengths', async t => {
  t.equal(lengthViolations(at('src/a.ts', 'x'.repeat(LINE_COLUMNS_MAX + 1))).length, 1)
  t.equal(lengthViolations(at('src/a.ts', '\n'.repeat(FILE_LINES_MAX))).length, 1)
  t.equal(functionViolations(at('src/a.ts', `function f() {${'\n'.repeat(FUNCTION_LINES_MAX)}}`)).length, 1)
  t.equal(functionViolations(at('src/a.ts', `const f = () => {${'\n'.repeat(FUNCTION_LINES_MAX - 1)}}`)).length, 0)
})
t.test('banned calls', async t => {
  for (const text of ['// TODO later', 'Math.random()', `console.log('x')`, 'process.exit(1)', 'let x: any', '// @ts-ignore']) {
    t.equal(bannedViolations(at('src/device/a.ts', text)).length, 1, text)
  }
  t.equal(bannedViolations(at('test/a.test.ts', 't.only(')).length, 1)
  t.equal(bannedViolations(at('native-free/a.ts', 'Date.now()')).length, 1)
})
t.test('headers, dead exports, dead files', async t => {
  t.equal(headerViolations(at('src/a.ts', `import x from 'y'`)).length, 1)
  t.equal(headerViolations(at('src/a.ts', '/** a noun */\n')).length, 0)
  const a = at('src/a.ts', 'export function lonely() {}')
  t.equal(unusedExports([a], [a]).length, 1)
  t.equal(unusedExports([a], [a, at('src/b.ts', 'lonely()')]).length, 0)
  t.equal(unreachable([a, at('src/index.ts', '')], ['src/index.ts']).length, 1)
  t.equal(unreachable([a, at('src/index.ts', `export * from './a.js'`)], ['src/index.ts']).length, 0)
})
