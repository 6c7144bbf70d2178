// Digests of content: what docs/peer-link.md says, however the content comes, and another one for any other content (SEEDS X14).
import { createHash } from 'node:crypto'
import t from 'tap'
import { type Random, seededRandom } from '../../src/device/testing.js'
import {
  type ByteRun, PortionDigests, portionsOf, REGION_BYTES_MAX, REGION_BYTES_MIN, regionBytesOf,
} from '../../src/replication/content-digest.js'

const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
const UNIT = 4096
const REGION = REGION_BYTES_MIN
const SIZE = 3 * REGION + 5 * UNIT + 512

/** Word by word from the page. */
function plain(content: Buffer, runs: readonly ByteRun[]): string[] {
  const digests: string[] = []
  for (let from = 0; from < content.length; from += REGION) {
    const hash = createHash('sha256')
    let any = false
    for (const run of runs) {
      const [start, end] = [Math.max(run.start, from), Math.min(run.end, from + REGION)]
      let segment: { zeros: boolean, at: number, bytes: Buffer[] } | undefined
      const close = (stop: number): void => {
        if (!segment) return
        const trailer = Buffer.alloc(17)
        trailer.write(segment.zeros ? 'Z' : 'D')
        trailer.writeBigUInt64BE(BigInt(segment.at), 1)
        trailer.writeBigUInt64BE(BigInt(stop - segment.at), 9)
        if (!segment.zeros) for (const bytes of segment.bytes) hash.update(bytes)
        hash.update(trailer)
        segment = undefined
        any = true
      }
      for (let at = start; at < end; at += UNIT) {
        const unit = content.subarray(at, Math.min(end, at + UNIT))
        const zeros = unit.every(byte => byte === 0)
        if (segment?.zeros !== zeros) {
          close(at)
          segment = { zeros, at, bytes: [] }
        }
        segment!.bytes.push(unit)
      }
      close(end)
    }
    if (any) digests.push(hash.digest('hex'))
  }
  return digests
}

/** In pieces of any size; zeros now and then as what is known to be zeros. */
function fed(content: Buffer, runs: readonly ByteRun[], random: Random): string[] {
  const digests: string[] = []
  const feed = new PortionDigests(portionsOf(runs, REGION), ({ digest }) => { digests.push(digest.toString('hex')) })
  for (const { start, end } of runs) {
    for (let at = start; at < end;) {
      const length = Math.min(end - at, random(3) === 0 ? 1 + random(3 * UNIT) : UNIT * (1 + random(300)))
      const zeros = content.subarray(at, at + length).every(byte => byte === 0)
      if (zeros && random(2) === 0) feed.feed(at, length, undefined)
      else feed.feed(at, length, content, at)
      at += length
    }
  }
  return digests
}

function someRuns(random: Random): ByteRun[] {
  const runs: ByteRun[] = []
  for (let at = UNIT * random(40); at < SIZE;) {
    const end = Math.min(SIZE, at + UNIT * (1 + random(random(3) === 0 ? 400 : 8)))
    runs.push({ start: at, end })
    at = end + UNIT * (1 + random(60))
  }
  return runs
}

function someContent(random: Random): Buffer {
  const content = Buffer.alloc(SIZE)
  for (let at = 0; at < SIZE; at += UNIT) if (random(2) === 0) content.fill(1 + random(255), at, Math.min(SIZE, at + UNIT))
  for (let i = 0; i < 20; i++) content[random(SIZE)] = 1 + random(255)
  return content
}

t.test('as the page says, however it comes; and any other byte is seen, in its portion', async t => {
  t.comment(`seed ${SEED}`)
  const random = seededRandom(SEED)
  for (let round = 0; round < 40; round++) {
    const [content, runs] = [someContent(random), someRuns(random)]
    const wanted = plain(content, runs)
    t.same(fed(content, runs, random), wanted)
    t.same(fed(content, runs, random), wanted)
    const { start, end } = runs[random(runs.length)]!
    const at = start + random(end - start)
    content[at]! ^= 1 << random(8)
    const place = [...portionsOf(runs, REGION)].findIndex(portion => at >= portion.start && at < portion.end)
    t.same(fed(content, runs, random).flatMap((digest, index) => digest === wanted[index] ? [] : [index]), [place])
  }
})

t.test('portions: cut at regions, and after 1,000 runs; more content than was named is refused', async t => {
  const runs = Array.from({ length: 2500 }, (_, index) => ({ start: 2 * index * UNIT, end: (2 * index + 1) * UNIT }))
  const region = 64 * REGION
  t.same([...portionsOf(runs, region)].map(portion => portion.runs.length), [1000, 1000, 500])
  t.same([...portionsOf([{ start: REGION - UNIT, end: 2 * REGION + UNIT }], REGION)].map(({ start, end }) => [start, end]),
    [[REGION - UNIT, REGION], [REGION, 2 * REGION], [2 * REGION, 2 * REGION + UNIT]])
  t.same([...portionsOf([], REGION)], [])
  const feed = new PortionDigests([], () => undefined)
  t.throws(() => { feed.feed(0, UNIT, undefined) }, RangeError)
  for (const offset of [0, 2 * UNIT]) {
    const one = new PortionDigests(portionsOf([{ start: UNIT, end: 2 * UNIT }], REGION), () => undefined)
    t.throws(() => { one.feed(offset, UNIT, undefined) }, RangeError)
  }
})

t.test('regions grow with the volume', async t => {
  t.equal(regionBytesOf(UNIT), REGION_BYTES_MIN)
  t.equal(regionBytesOf(2 ** 36), REGION_BYTES_MIN)
  t.equal(regionBytesOf(2 ** 36 + 512), 2 * REGION_BYTES_MIN)
  t.equal(regionBytesOf(2 ** 52), REGION_BYTES_MAX)
})
