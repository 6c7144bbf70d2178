// The tree keeps the house rules: floors, lengths, headers, banned calls, nothing dead.
import t from 'tap'
import {
  bannedViolations, floorViolations, functionViolations, headerViolations, lengthViolations, packageViolations, roofViolations, unreachable, unusedExports,
} from './rules.js'
import { sourcesBelow } from './tree.js'

const product = [...sourcesBelow('src'), ...sourcesBelow('native-free')]
const tests = [...sourcesBelow('test'), ...sourcesBelow('scripts')]
const everything = [...product, ...tests]

const rules: readonly [string, () => string[]][] = [
  ['imports point down only', () => product.flatMap(floorViolations)],
  ['the roof stands on the public API', () => product.flatMap(roofViolations)],
  ['the ground floor imports nothing', () => product.flatMap(packageViolations)],
  ['files and lines are short', () => everything.flatMap(lengthViolations)],
  ['functions are short', () => product.flatMap(functionViolations)],
  ['nothing banned is called', () => everything.flatMap(bannedViolations)],
  ['every file says what it is for', () => everything.flatMap(headerViolations)],
  ['no export is dead', () => unusedExports(product, everything)],
  ['no file is dead', () => unreachable(product.filter(source => !source.path.endsWith('.d.ts')),
    ['src/index.ts', 'src/main.ts', 'src/device/testing.ts', 'native-free/index.ts'])],
]
for (const [name, check] of rules) t.test(name, async t => { t.strictSame(check(), []) })

t.test('the rules look at a tree that is there', async t => { t.ok(product.length > 40, `${product.length} product files`) })
