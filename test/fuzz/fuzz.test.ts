// A slice of `make fuzz`: 20,000 mutated inputs against handshake and transmission; no crash, no hang, no growth, good clients
// unharmed.
import t from 'tap'
import { fuzz } from './fuzz.js'
import { CHUNK, EXT_REPLY, IHAVEOPT, NBDMAGIC, OPTION_REPLY, SIMPLE, STRUCTURED, u16, u32, u64 } from '../nbd/support/wire.js'
import { judgeReplies, judgeSession } from './judge.js'
import { makeInput } from './mutate.js'

t.setTimeout(300_000)
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)

t.test('an input is a function of seed and index', async t => {
  t.strictSame(makeInput(5, 77), makeInput(5, 77))
  const different = new Set(Array.from({ length: 500 }, (_, index) => makeInput(5, index).bytes.toString('hex')))
  t.ok(different.size > 450, `${different.size} of 500 differ`)
  t.notSame(makeInput(5, 77).bytes, makeInput(6, 77).bytes)
})

t.test(`20,000 inputs, seed ${seed}`, async t => {
  const { failure, inputs, seconds } = await fuzz({ seed, inputs: 20_000 })
  t.comment(`${inputs} inputs in ${seconds.toFixed(1)} s`)
  if (!failure) return
  const where = `--seed ${seed} --inputs 1 --from one of ${failure.indices.join(', ')}`
  t.fail(`replay: node dist/test/fuzz/run.js ${where}: ${failure.error}`)
})

t.test('malformed output is noticed', async t => {
  const hello = Buffer.concat([u64(NBDMAGIC, IHAVEOPT), u16(3)])
  const chunk = (type: number, flags: number, payload: Buffer, magic = STRUCTURED): Buffer =>
    Buffer.concat([u32(magic), u16(flags, type), u64(1), ...magic === EXT_REPLY ? [u64(0,
      payload.length)] : [u32(payload.length)], payload])
  const good = chunk(CHUNK.NONE, 1, Buffer.alloc(0))
  t.equal(judgeSession(Buffer.concat([hello, good, good])), undefined)
  t.equal(judgeReplies(Buffer.concat([good, chunk(CHUNK.ERROR, 1, Buffer.concat([u32(22), u16(0)]))])), undefined)
  const bad: readonly (readonly [string, Buffer])[] = [
    ['half a hello', hello.subarray(0, 9)], ['reply magic', Buffer.concat([hello, good, Buffer.alloc(8)])],
    ['chunk type', Buffer.concat([hello, chunk(9, 1, Buffer.alloc(0))])],
    ['reply flags', Buffer.concat([hello, chunk(0, 3, Buffer.alloc(0), EXT_REPLY)])],
    ['errno', Buffer.concat([hello, chunk(CHUNK.ERROR, 1, Buffer.concat([u32(2), u16(0)]))])],
    ['errno', Buffer.concat([hello, u32(SIMPLE, 999), u64(1)])], ['option reply',
      Buffer.concat([hello, u64(OPTION_REPLY), u32(7, 99, 0)])],
  ]
  for (const [what, output] of bad) t.match(judgeSession(output), what)
})
