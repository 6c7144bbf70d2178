// Delta streams: what goes in comes out however it is cut, and nothing else is accepted.
import t from 'tap'
import {
  crc32, DELTA_DATA_MAX_BYTES, DELTA_EMPTY, DeltaDecoder, DeltaEncoder, type DeltaHeader, type DeltaReason, writeU64,
} from '../../native-free/index.js'
import { data, decode, digest, encode, encodeSlowly, HEADER, type Step, STEPS, zeros } from './delta-samples.js'
import { generator, SEED } from './twin.js'

t.comment(`seed ${SEED}`)
const records = encode()
const stream = Buffer.concat(records)
const reasonOf = (chunks: Iterable<Buffer>): DeltaReason | 'ok' => decode(chunks).refusal?.reason ?? 'ok'

/** `record` with another payload and the checksum that belongs to it, behind `previous`. */
function resealed(record: Buffer, previous: number, edit: (record: Buffer) => unknown): Buffer {
  const copy = Buffer.from(record)
  edit(copy)
  copy.writeUInt32BE(crc32(copy, 16, copy.length, crc32(copy, 0, 12, previous)), 12)
  return copy
}
const checksumBefore = (index: number): number => index === 0 ? 0 : records[index - 1].readUInt32BE(12)
/** The stream up to a record that was edited and sealed anew. */
const edited = (index: number, edit: (record: Buffer) => unknown): Buffer[] =>
  [...records.slice(0, index), resealed(records[index], checksumBefore(index), edit)]

function random(steps: number, next: (below: number) => number): Step[] {
  const list: Step[] = []
  for (let at = next(100), i = 0; i < steps; i++) {
    if (next(5) === 0) list.push('mark')
    const zeroBytes = next(3) > 0 ? 0 : 1 + next(1000)
    const bytes = zeroBytes > 0 && next(2) === 0 ? 0 : 1 + next(80)
    list.push({ offset: at, zeroBytes, data: Buffer.from(Array.from({ length: bytes }, () => next(256))) })
    at += zeroBytes + bytes + next(2) * next(10_000)
  }
  return [...list, 'end']
}

t.test('what goes in comes out', async t => {
  const { items, refusal, positions } = decode([stream])
  t.equal(refusal, undefined)
  t.strictSame(items[0], { kind: 'header', sequence: 0, header: HEADER, after: undefined })
  t.strictSame(items.slice(1).map(({ sequence, ...item }) => item.kind === 'extent' ? { ...item } : item.kind),
    STEPS.map(step => typeof step === 'string' ? step : { kind: 'extent', ...step }))
  t.strictSame(items.map(item => item.sequence), items.map((_item, index) => index))
  t.match(positions.at(-1), { sequence: 6, offset: 2 ** 40 + 512, extents: 4, dataBytes: 24, zeroBytes: 4096 + 512 + 512 })
})

t.test('the twin writes the same bytes', async t => {
  t.ok(encodeSlowly(STEPS, HEADER).equals(stream))
  const next = generator(SEED)
  for (let run = 0; run < 50; run++) {
    const steps = random(next(20), next)
    const full: DeltaHeader = { ...HEADER, base: DELTA_EMPTY, baseNumber: 0, sizeBefore: 0 }
    const header = next(2) === 0 ? HEADER : full
    t.ok(encodeSlowly(steps, header).equals(Buffer.concat(encode(steps, header))), `run ${run} of seed ${SEED}`)
  }
})

t.test('cut anywhere, even into single bytes, it is the same', async t => {
  const whole = decode([stream])
  for (let at = 0; at <= stream.length; at++) {
    const parts = decode([stream.subarray(0, at), stream.subarray(at)])
    if (JSON.stringify(parts) !== JSON.stringify(whole)) t.fail(`cut at ${at}`)
  }
  const torn = records.flatMap(record => [record.subarray(0, 24), record.subarray(24)])
  t.strictSame(decode(torn), whole, 'between head and payload')
  t.strictSame(decode(Array.from(stream, (_byte, at) => stream.subarray(at, at + 1))), whole)
})

t.test('every truncation is refused', async t => {
  for (let length = 0; length < stream.length; length++) {
    if (reasonOf([stream.subarray(0, length)]) !== 'truncated') t.fail(`${length} bytes of ${stream.length}`)
  }
})

t.test('every flipped bit is refused, and no extent of it comes out', async t => {
  const good = decode([stream]).items.map(item => JSON.stringify(item))
  const seen = new Map<string, number>()
  for (let bit = 0; bit < stream.length * 8; bit++) {
    const copy = Buffer.from(stream)
    copy[bit >> 3] ^= 1 << (bit & 7)
    const { items, refusal } = decode([copy])
    if (!refusal) t.fail(`bit ${bit} passes`)
    if (items.some((item, index) => JSON.stringify(item) !== good[index])) t.fail(`bit ${bit}: something wrong came out`)
    seen.set(refusal!.reason, (seen.get(refusal!.reason) ?? 0) + 1)
  }
  t.comment(`${stream.length * 8} flips: ${[...seen].map(([reason, count]) => `${count} ${reason}`).join(', ')}`)
  t.notOk(seen.has('version'), 'damage is never taken for a newer version')
})

t.test('records swapped, repeated, left out or from another stream are refused', async t => {
  const moved = (from: number, to: number): Buffer[] => {
    const list = [...records]
    list.splice(to, 0, ...list.splice(from, 1))
    return list
  }
  for (let from = 0; from < records.length; from++) {
    for (let to = 0; to < records.length; to++) if (from !== to) t.not(reasonOf(moved(from, to)), 'ok', `${from} to ${to}`)
    t.not(reasonOf(records.filter((_record, index) => index !== from)), 'ok', `without ${from}`)
    t.not(reasonOf([...records.slice(0, from), records[from], ...records.slice(from)]), 'ok', `${from} twice`)
  }
  const other = encode(STEPS, { ...HEADER, createdAt: '2026-01-02T03:04:05.679Z' })
  for (let index = 1; index < records.length; index++) {
    t.equal(reasonOf([...records.slice(0, index), other[index], ...records.slice(index + 1)]), 'checksum', `${index} of another stream`)
  }
  t.equal(reasonOf([...records, records[2]]), 'trailing')
  t.equal(reasonOf([...records, Buffer.alloc(1)]), 'trailing')
})

t.test('one reason for each untruth that checks', async t => {
  const of = (index: number, edit: (record: Buffer) => unknown): string => reasonOf(edited(index, edit))
  const table: [string, DeltaReason][] = [
    [reasonOf([Buffer.from('hello, this is not a delta')]), 'magic'],
    [of(0, record => record.writeUInt32BE(2 ** 20 + 17, 8)), 'length'],
    [of(0, record => record.writeUInt16BE(2, 4)), 'version'],
    [of(0, record => record.writeUInt16BE(2, 6)), 'type'],
    [of(0, record => record.writeUInt32BE(2, 24)), 'flags'],
    [of(0, record => record.writeUInt32BE(4095, 28)), 'header'],
    [of(0, record => record.fill(0, 32, 48)), 'header'],
    [of(0, record => record.fill(0, 64, 80)), 'header'],
    [of(0, record => record.fill(0xff, 80, 88)), 'header'],
    [of(0, record => record.writeUInt8(10, 120)), 'header'],
    [of(0, record => writeU64(record, 16, 1)), 'sequence'],
    [of(1, record => record.writeUInt16BE(1, 6)), 'type'],
    [of(1, record => record.writeUInt16BE(9, 6)), 'type'],
    [of(1, record => record.writeUInt16BE(2, 4)), 'version'],
    [of(1, record => writeU64(record, 16, 2)), 'sequence'],
    [of(1, record => writeU64(record, 24, HEADER.sizeAfter - 8)), 'extent'],
    [of(1, record => record.fill(0xff, 24, 32)), 'extent'],
    [of(1, record => record.fill(0xff, 32, 40)), 'extent'],
    [of(2, record => writeU64(record, 24, 4096 + 8)), 'extent'],
    [of(2, record => writeU64(record, 32, 0)), 'extent'],
    [of(3, record => record.writeUInt32BE(57, 8)), 'length'],
    [of(3, record => writeU64(record, 24, 3)), 'totals'],
    [of(3, record => writeU64(record, 32, 10)), 'totals'],
    [of(3, record => writeU64(record, 40, 0)), 'totals'],
    [of(3, record => record.writeUInt8(record[79] ^ 1, 79)), 'digest'],
    [of(6, record => record.writeUInt8(record[48] ^ 128, 48)), 'digest'],
    [reasonOf(records.slice(0, -1)), 'truncated'],
    [reasonOf([]), 'truncated'],
  ]
  for (const [index, [found, expected]] of table.entries()) t.equal(found, expected, `row ${index}`)
})

t.test('what the checksum lets pass the digest does not', async t => {
  // Other data with the same checksum: it is linear, so four bytes suffice to steer it anywhere.
  const target = records[1].readUInt32BE(12)
  const forged = Buffer.from(records[1])
  forged.write('lies', 40)
  const sum = (): number => crc32(forged, 16, forged.length, crc32(forged, 0, 12, checksumBefore(1)))
  forged.fill(0, 45)
  const columns = Array.from({ length: 32 }, (_bit, bit) => {
    const flat = sum()
    forged[45 + (bit >> 3)] ^= 1 << (bit & 7)
    const difference = (sum() ^ flat) >>> 0
    forged[45 + (bit >> 3)] ^= 1 << (bit & 7)
    return { difference, bits: new Set([bit]) }
  })
  let rest = (sum() ^ target) >>> 0
  const basis: typeof columns = []
  for (const column of columns) {
    let { difference } = column
    const bits = new Set(column.bits)
    const toggle = (others: Set<number>): void => { for (const bit of others) if (!bits.delete(bit)) bits.add(bit) }
    for (const other of basis) if (((difference ^ other.difference) >>> 0) < difference) { difference = (difference ^ other.difference) >>> 0; toggle(other.bits) }
    if (difference !== 0) basis.push({ difference, bits })
    basis.sort((a, b) => b.difference - a.difference)
  }
  for (const { difference, bits } of basis) {
    if (((rest ^ difference) >>> 0) >= rest) continue
    rest = (rest ^ difference) >>> 0
    for (const bit of bits) forged[45 + (bit >> 3)] ^= 1 << (bit & 7)
  }
  t.equal(sum(), target, 'a forgery that checks')
  t.notOk(forged.equals(records[1]))
  t.equal(reasonOf([records[0], forged, ...records.slice(2)]), 'digest', 'found by the next mark')
})

t.test('a continued stream ends with the bytes of the one it continues', async t => {
  const { items, positions } = decode([stream])
  for (let index = 1; index < records.length - 1; index++) {
    const rest = encode(STEPS.slice(index), HEADER, positions[index])
    t.ok(Buffer.concat(rest.slice(1)).equals(Buffer.concat(records.slice(index + 1))), `behind record ${index}`)
    const decoded = decode(rest)
    t.equal(decoded.refusal, undefined)
    t.strictSame(decoded.items[0], { kind: 'header', sequence: 0, header: HEADER, after: positions[index] })
    t.strictSame(decoded.items.slice(1), items.slice(index + 1))
    t.strictSame(decoded.positions.slice(1), positions.slice(index + 1))
    for (let bit = 0; bit < rest[0].length * 8; bit += 7) {
      const copy = Buffer.concat(rest)
      copy[bit >> 3] ^= 1 << (bit & 7)
      if (reasonOf([copy]) === 'ok') t.fail(`bit ${bit} of a continued header passes`)
    }
  }
})

t.test('misuse of the encoder', async t => {
  const begun = (): DeltaEncoder => {
    const encoder = new DeltaEncoder(digest)
    encoder.begin(HEADER)
    encoder.extent(4096, 0, Buffer.alloc(512))
    return encoder
  }
  const table: [string, (encoder: DeltaEncoder) => unknown][] = [
    ['twice begun', encoder => encoder.begin(HEADER)],
    ['back', encoder => encoder.extent(4607, 1, Buffer.alloc(0))],
    ['nothing', encoder => encoder.extent(8192, 0, Buffer.alloc(0))],
    ['negative', encoder => encoder.extent(8192, -1, Buffer.alloc(512))],
    ['no number', encoder => encoder.extent(NaN, 1, Buffer.alloc(512))],
    ['past the end', encoder => encoder.extent(HEADER.sizeAfter, 1, Buffer.alloc(0))],
    ['too much', encoder => encoder.extent(8192, 0, Buffer.alloc(DELTA_DATA_MAX_BYTES + 1))],
    ['behind the end', encoder => { encoder.end(); encoder.mark() }],
    ['ended twice', encoder => { encoder.end(); encoder.end() }],
  ]
  for (const [name, misuse] of table) t.throws(() => misuse(begun()), RangeError, name)
  for (const wrong of [{ volume: 'x' }, { target: DELTA_EMPTY }, { base: DELTA_EMPTY }, { sizeAfter: -1 }, { grainBytes: 5000 }, { createdAt: '' }]) {
    t.throws(() => new DeltaEncoder(digest).begin({ ...HEADER, ...wrong }), RangeError, JSON.stringify(wrong))
  }
  t.throws(() => new DeltaEncoder(digest).extent(0, 1, Buffer.alloc(0)), RangeError)
  t.throws(() => new DeltaEncoder(digest).position, RangeError)
})

t.test('garbage and mutations: refused or the same, never an exception', async t => {
  const next = generator(SEED + 1)
  for (let run = 0; run < 3000; run++) {
    const steps = random(next(8), next)
    const good = encode(steps)
    const copy = Buffer.concat(good)
    const bad = [...good]
    switch (next(4)) {
      case 0: copy.fill(next(256), next(copy.length), next(copy.length)); break
      case 1: bad.splice(next(good.length), 1); break
      case 2: bad.splice(next(good.length), 0, good[next(good.length)]); break
      default: for (let n = 1 + next(4); n > 0; n--) copy[next(copy.length)] = next(256)
    }
    const mutant = bad.length === good.length ? copy : Buffer.concat(bad)
    const chunks: Buffer[] = []
    for (let at = 0; at < mutant.length;) chunks.push(mutant.subarray(at, at += 1 + next(200)))
    const same = mutant.equals(Buffer.concat(good))
    if ((reasonOf(chunks) === 'ok') !== same) t.fail(`run ${run} of seed ${SEED}: ${reasonOf(chunks)}`)
  }
})

t.test('what a length claims is bounded before it is believed', async t => {
  const decoder = new DeltaDecoder(digest)
  t.strictSame([...decoder.push(records[0])].map(item => item.kind), ['header'])
  const greedy = Buffer.from(records[1].subarray(0, 24))
  greedy.writeUInt32BE(0xffffffff, 8)
  t.match([...decoder.push(greedy)], [{ kind: 'refused', reason: 'length', sequence: 1 }])
  t.match([...decoder.push(records[1])], [{ kind: 'refused', reason: 'length' }], 'a refusal lasts')
  t.match(decoder.end(), { reason: 'length' })
})

t.test('the largest record', async t => {
  const payload = Buffer.alloc(DELTA_DATA_MAX_BYTES, 7)
  const { items, refusal } = decode(encode([{ offset: 0, zeroBytes: 4096, data: payload }, data(2 ** 21, 'x'), zeros(2 ** 22, 1), 'end']))
  t.equal(refusal, undefined)
  t.ok(items[1].kind === 'extent' && items[1].data.equals(payload))
})
