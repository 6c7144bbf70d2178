// O5 and section 9: what a client may read about a failure: eight errnos, short texts, valid UTF-8, nothing it could inject.
import { isUtf8 } from 'node:buffer'
import t from 'tap'
import { ERRNO } from '../../native-free/nbd/constants.js'
import { ERRORS, NbdeltaError, type ErrorCode } from '../../src/device/errors.js'
import { quoteClientText, refusalOf, wireText } from '../../src/nbd/wire-error.js'

t.test('every error of the table has its errno', async t => {
  for (const code of Object.keys(ERRORS) as ErrorCode[]) {
    const refusal = refusalOf(new NbdeltaError(code, 'because'))!
    t.match(refusal, { errnoName: ERRORS[code].errno, errno: ERRNO[ERRORS[code].errno], text: 'because' }, code)
  }
  for (const bug of [new Error('x'), undefined, 'text', null]) t.equal(refusalOf(bug), undefined, 'a broken invariant is no reply')
})

t.test('texts are cut at a character and stay UTF-8', async t => {
  for (const text of ['', 'short', 'ü'.repeat(300), '😀'.repeat(300), `${'a'.repeat(199)}😀`, '\ud800'.repeat(200)]) {
    const bytes = wireText(text)
    t.ok(bytes.length <= 200 && isUtf8(bytes), `${bytes.length} bytes`)
  }
  t.equal(wireText('x'.repeat(500)).length, 200)
})

t.test('client text is quoted, escaped and cut', async t => {
  t.equal(quoteClientText(Buffer.from('a"\n\u001b[31m')), '"a\\"\\n\\u001b[31m"')
  t.equal(quoteClientText(Buffer.alloc(10_000, 'x')).length, 82)
  t.equal(quoteClientText(Buffer.from([0xff, 0xfe])), '"\ufffd\ufffd"')
})
