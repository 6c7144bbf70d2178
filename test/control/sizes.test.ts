// Sizes, addresses, names: what is accepted means exactly one thing, everything else is refused with words.
import t from 'tap'
import { count, exactSize, formatSize, judge, parseAddress, parseCreation, parseLabel, parseSize, shorten,
  wireName } from '../../src/control/options.js'
import { NbdeltaError } from '../../src/device/errors.js'

const KIB = 1024
const accepted: readonly [string, number][] = [
  ['0', 0], ['1', 1], ['512', 512], ['4096', 4096], ['4096b', 4096], ['4096B', 4096],
  ['1k', KIB], ['1K', KIB], ['1KiB', KIB], ['1kib', KIB], ['4 KiB', 4 * KIB], [' 4k ', 4 * KIB],
  ['1M', KIB ** 2], ['1MiB', KIB ** 2], ['1G', KIB ** 3], ['1GiB', KIB ** 3], ['16TiB', 16 * KIB ** 4], ['2T', 2 * KIB ** 4],
  ['1.5GiB', 1.5 * KIB ** 3], ['0.5k', 512], ['1.25M', 1.25 * KIB ** 2], ['1.000', 1], ['7PiB', 7 * KIB ** 5],
  ['9007199254740991', Number.MAX_SAFE_INTEGER], ['0.001953125k', 2],
]
for (const [text, bytes] of accepted) t.test(`'${text}'`, async t => { t.equal(parseSize(text), bytes) })

const refused: readonly [string, RegExp][] = [
  ['', /not a size/], ['x', /not a size/], ['-1', /not a size/], ['+1', /not a size/], ['1e9', /not a size/],
    ['1,5G', /not a size/], ['1 2', /not a size/],
  ['GiB', /not a size/], ['.5G', /not a size/], ['1.G', /not a size/], ['0x10', /not a size/], ['1GiBs', /not a size/],
    ['1KiB2', /not a size/], ['١', /not a size/],
  ['1MB', /write MiB/], ['1kB', /write KiB/], ['3gb', /write GiB/],
  ['1.5', /whole number of bytes/], ['0.3k', /whole number of bytes/],
  ['8PiB', /too large/], ['9007199254740992', /too large/], ['99999999999999999999', /too large/], ['9999999T', /too large/],
  ['1'.repeat(1000), /not a size/], ['1\u0000', /not a size/], ['\u001b[31m', /not a size/],
]
for (const [text, message] of refused) {
  t.test(`refuses '${shorten(text)}'`, async t => {
    t.throws(() => parseSize(text), { code: 'bad-argument', message, hint: /a size is a number of bytes/ })
  })
}

t.test('what formatSize shows', async t => {
  const shown: readonly [number, string][] = [[0, '0 bytes'], [1, '1 byte'], [1023, '1023 bytes'], [1024, '1 KiB'],
    [1536, '1.5 KiB'], [KIB ** 3, '1 GiB'],
    [KIB ** 3 - 1, '1 GiB'], [1.005 * KIB ** 4, '1 TiB'], [16 * KIB ** 4, '16 TiB'], [Number.MAX_SAFE_INTEGER, '8 PiB']]
  for (const [bytes, text] of shown) t.equal(formatSize(bytes), text)
  t.same([0, 1, 2].map(number => count(number, 'region')), ['0 regions', '1 region', '2 regions'])
  t.same([1, 2].map(number => count(number, 'point', 'snapshots')), ['1 point', '2 snapshots'])
})

t.test('exactSize parses back to the same number', async t => {
  for (const bytes of [0, 1, 1023, 1024, 4096, 1536, 3 * KIB ** 2, KIB ** 4, 5 * KIB ** 5,
    Number.MAX_SAFE_INTEGER]) t.equal(parseSize(exactSize(bytes)), bytes)
})

t.test('addresses', async t => {
  t.same(parseAddress('unix:/run/a.sock'), { path: '/run/a.sock' })
  t.same(parseAddress('unix:rel/a b.sock'), { path: 'rel/a b.sock' })
  t.same(parseAddress('tcp:127.0.0.1:10810'), { host: '127.0.0.1', port: 10810 })
  t.same(parseAddress('tcp:localhost'), { host: 'localhost', port: 10809 })
  t.same(parseAddress('tcp::10809'), { host: '::', port: 10809 })
  t.same(parseAddress('tcp:[::1]:7'), { host: '::1', port: 7 })
  t.same(parseAddress('tcp:host:0'), { host: 'host', port: 0 })
  for (const text of ['', 'unix:', 'tcp:', '10809', 'tcp:a:b', 'tcp:1:2:3', 'tcp:h:70000', 'tcp:h:-1', 'udp:h:1', 'tcp:::1',
    'tcp:[::1', 'tcp:a b:1', `unix:/${'x'.repeat(107)}`, 'unix:/a\u0000b']) {
    t.throws(() => parseAddress(text), { name: 'NbdeltaError', code: 'bad-argument' }, `refuses '${shorten(text)}'`)
  }
  t.doesNotThrow(() => parseAddress(`unix:/${'x'.repeat(106)}`), '107 bytes are what the kernel allows')
})

t.test('NAME=SIZE', async t => {
  t.same(parseCreation('disk=1GiB'), { name: 'disk', sizeBytes: KIB ** 3 })
  t.same(parseCreation('a=b=1k'), { name: 'a=b', sizeBytes: KIB })
  for (const text of ['disk', '=1k', 'disk=', 'disk=x']) t.throws(() => parseCreation(text), { code: 'bad-argument' }, text)
})

t.test('names, integers, enums, powers of two', async t => {
  const name = { name: 'name', type: 'name', help: '', value: 'NAME' } as const
  for (const good of ['a', 'disk-1', 'a b', 'ü', 'x'.repeat(128)]) t.equal(judge(name, good), good)
  for (const bad of ['', 'a\nb', 'a\u0000', '\u007f', 'x'.repeat(129),
    'ü'.repeat(65)]) t.throws(() => judge(name, bad), NbdeltaError, shorten(bad))
  const grain = { name: 'grain', type: 'size', help: '', minimum: 4096, maximum: KIB ** 2, powerOfTwo: true } as const
  for (const good of ['4k', '64KiB', '1M']) t.doesNotThrow(() => judge(grain, good))
  for (const bad of ['2k', '5000', '12k', '2M', '0']) t.throws(() => judge(grain, bad), { code: 'bad-argument' }, bad)
  const id = { name: 'id', type: 'int', help: '', minimum: 1, maximum: 10 } as const
  t.equal(judge(id, '10'), 10)
  for (const bad of ['0', '11', '1.5', '-1', '', 'one', '9'.repeat(30)]) t.throws(() => judge(id, bad), { code: 'bad-argument' },
    bad)
  t.throws(() => judge({ name: 'how', type: 'enum', help: '', choices: ['soft', 'hard'] }, 'gently'),
    { code: 'bad-argument', hint: 'one of soft, hard' })
})

t.test('rates, durations, labels, streams', async t => {
  const rate = { name: 'rate', type: 'rate', help: '', minimum: 4096 } as const
  for (const [text, bytes] of [['50MiB/s', 50 * KIB ** 2], ['1M', KIB ** 2], ['4096', 4096]] as const) t.equal(judge(rate, text), bytes, text)
  for (const bad of ['1k', '1MB/s', '1M/m', '/s', '']) t.throws(() => judge(rate, bad), { code: 'bad-argument' }, bad)
  const duration = { name: 'expires', type: 'duration', help: '' } as const
  const durations = [['90', 90], ['90s', 90], ['15m', 900], ['12h', 43_200], ['7d', 604_800], ['2 W', 1_209_600]] as const
  for (const [text, seconds] of durations) t.equal(judge(duration, text), seconds, text)
  for (const bad of ['', '0', '-1', '1.5h', '1y', '99999d', '9'.repeat(20), 'h']) t.throws(() => judge(duration, bad), { code: 'bad-argument' }, bad)
  const key = { name: 'label', type: 'label', help: '' } as const
  for (const good of ['a=b', 'a=', 'a=b=c']) t.equal(judge(key, good), good)
  t.same(parseLabel('a=b=c'), ['a', 'b=c'])
  for (const bad of ['', 'a', '=b', `a=${'x'.repeat(2000)}`]) t.throws(() => judge(key, bad), { code: 'bad-argument' }, shorten(bad))
  const stream = { name: 'file', type: 'stream', help: '', value: 'FILE' } as const
  for (const good of ['-', '/a/b', 'unix:/tmp/x']) t.equal(judge(stream, good), good)
  for (const bad of ['', 'a\u0000', `unix:/${'x'.repeat(120)}`, 'unix:']) t.throws(() => judge(stream, bad), { code: 'bad-argument' }, shorten(bad))
})

t.test('messages carry no control characters and stay short', async t => {
  t.equal(shorten('a\u001b[31mb'), 'a?[31mb')
  t.ok(shorten('x'.repeat(10_000)).length <= 80)
  t.equal(wireName('if-not-exists'), 'ifNotExists')
})
