// docs/delta-format.md stays true: its examples are what the code writes, its numbers and names what the code uses.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import * as kernels from '../../native-free/index.js'
import { MARK_BYTES } from '../../src/volume/delta-writer.js'
import { decode, encode, HEADER, STEPS } from './delta-samples.js'

const PAGE = readFileSync(fileURLToPath(new URL('../../../docs/delta-format.md', import.meta.url)), 'utf8')
const records = encode()
const MARK = 3
const IMAGES: Readonly<Record<string, Buffer>> = {
  delta: Buffer.concat(records),
  rest: Buffer.concat(encode(STEPS.slice(MARK), HEADER, decode(records).positions[MARK])),
}

t.test('every example is a part of the stream, byte for byte', async t => {
  const starts = new Set<number>()
  for (const [, name, offset, text] of PAGE.matchAll(/```hex (\S+) (\d+)\n([^`]*)```/g)) {
    if (name === 'delta') starts.add(Number(offset))
    text.trim().split('\n').forEach((line, i) => {
      const [, at, hex] = /^([0-9a-f]{4}) {2}((?:[0-9a-f]{2} ?){1,16})(?: |$)/.exec(line)!
      t.equal(parseInt(at, 16), 16 * i)
      const start = Number(offset) + 16 * i
      const bytes = Buffer.from(hex.replaceAll(' ', ''), 'hex')
      t.equal(IMAGES[name].subarray(start, start + bytes.length).toString('hex'), bytes.toString('hex'), `${name} ${start}`)
    })
  }
  t.equal(starts.size, 5, 'one of each kind, and zeros with data')
})

t.test('every number in the table of sizes is the code\'s', async t => {
  const constants: Record<string, unknown> = { ...kernels, MARK_BYTES }
  const rows = [...PAGE.matchAll(/^\| [^|]+ \| (\d+) \| ([A-Z_]+) \|$/gm)]
  t.equal(rows.length, 4)
  for (const [, value, name] of rows) t.equal(constants[name], Number(value), name)
})

t.test('every type and reason is named', async t => {
  for (const [kind, type] of Object.entries(kernels.DELTA_TYPES)) t.match(PAGE, `| ${type} | ${kind.toUpperCase()} |`)
  const reasons: kernels.DeltaReason[] = [
    'magic', 'length', 'type', 'sequence', 'checksum', 'version', 'flags', 'header', 'extent', 'totals', 'digest', 'truncated', 'trailing',
  ]
  for (const reason of reasons) t.match(PAGE, `\`${reason}\``)
  const letters = Buffer.alloc(4)
  letters.writeUInt32BE(kernels.DELTA_MAGIC)
  t.match(PAGE, `\`${letters.toString()}\``)
})
