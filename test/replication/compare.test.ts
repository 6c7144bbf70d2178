// Comparison by digests: what differs is named to the unit, whatever is known to be zeros, and little is read (SEEDS X14).
import t from 'tap'
import { ManualClock, MemoryDisk, seededRandom } from '../../src/device/testing.js'
import { compareContents, digestOf } from '../../src/replication/compare.js'
import { portionsOf, REGION_BYTES_MIN, UNIT_BYTES } from '../../src/replication/content-digest.js'
import { digestsOf, RootHash } from '../../src/replication/content-roots.js'
import { DeviceContent } from '../../src/replication/frozen-content.js'

const REGION = REGION_BYTES_MIN
const SEED = Number(process.env.SEED ?? Date.now() % 2 ** 31)
const clock = new ManualClock()
t.setTimeout(240_000)

/** Nobody closes a disk of a test. */
const content = (disk: MemoryDisk, read = disk.read.bind(disk)): DeviceContent => new DeviceContent({
  sizeBytes: disk.sizeBytes, zeroRun: (...range) => disk.zeroRun(...range), read, close: async () => undefined,
})

/** 512 bytes of another value there. */
function change(disk: MemoryDisk, at: number, value = 0xaa): void { disk.write(at, 512, Buffer.alloc(512, value), 0) }

/** Two disks with the same content; of some of it only one knows that it is zeros. */
function twins(size: number, random: (below: number) => number): [MemoryDisk, MemoryDisk] {
  const pair: [MemoryDisk, MemoryDisk] = [new MemoryDisk(size), new MemoryDisk(size)]
  for (let at = 0; at < size; at += 64 * 1024) {
    const bytes = Math.min(64 * 1024, size - at)
    const what = random(4)
    if (what === 0) pair[random(2)]!.write(at, bytes, Buffer.alloc(bytes), 0)
    if (what > 1) for (const disk of pair) disk.write(at, bytes, Buffer.alloc(bytes, 1 + (at + what) % 250), 0)
  }
  return pair
}

t.test('whatever is planted is named, and nothing else: in any unit, the last one, half of it too', async t => {
  t.comment(`seed ${SEED}`)
  const random = seededRandom(SEED)
  for (let round = 0; round < 40; round++) {
    const size = (1 + random(5 * REGION / 512)) * 512
    const [a, b] = twins(size, random)
    t.same((await compareContents(content(a), content(b), { clock })).found, [], `round ${round}: equal`)
    const units = new Set<number>()
    for (let count = random(6); count > 0; count--) units.add(random(Math.ceil(size / UNIT_BYTES)))
    if (random(2) === 0) units.add(Math.ceil(size / UNIT_BYTES) - 1)
    for (const unit of units) {
      const bytes = Math.min(UNIT_BYTES, size - unit * UNIT_BYTES)
      change([a, b][random(2)]!, unit * UNIT_BYTES + random(bytes / 512) * 512)
    }
    const wanted: { offset: number, length: number }[] = []
    for (const unit of [...units].sort((x, y) => x - y)) {
      const offset = unit * UNIT_BYTES
      const length = Math.min(UNIT_BYTES, size - offset)
      const last = wanted.at(-1)
      if (last && last.offset + last.length === offset) last.length += length
      else wanted.push({ offset, length })
    }
    const { found, digest } = await compareContents(content(a), content(b), { clock })
    if (JSON.stringify(found) !== JSON.stringify(wanted)) return t.same(found, wanted, `round ${round}`)
    t.equal(digest, await digestOf(content(a), { clock }), 'the same as of one alone')
    t.equal(await digestOf(content(b), { clock }) === digest, units.size === 0)
  }
})

t.test('the digest is the root of all regions on top of nothing, and depends on the size', async t => {
  const size = 2 * REGION + 1536
  const disk = new MemoryDisk(size)
  disk.write(5 * UNIT_BYTES, 512, Buffer.alloc(512, 1), 0)
  const root = new RootHash(null)
  for await (const portion of digestsOf(disk, portionsOf([{ start: 0, end: size }], REGION))) root.add(portion)
  t.equal(await digestOf(content(disk), { clock }), root.hex())
  t.not(await digestOf(content(new MemoryDisk(REGION)), { clock }), await digestOf(content(new MemoryDisk(REGION + 512)), { clock }))
})

t.test('more than a hundred places: the first hundred; a long one is one', async t => {
  const [a, b] = [new MemoryDisk(4 * REGION), new MemoryDisk(4 * REGION)]
  for (let unit = 1; unit < 4 * REGION / UNIT_BYTES; unit += 2) change(b, unit * UNIT_BYTES)
  const { found, digest } = await compareContents(content(a), content(b), { clock })
  t.equal(found.length, 100)
  t.same(found[99], { offset: 199 * UNIT_BYTES, length: UNIT_BYTES })
  t.equal(digest, null, 'not all of it was looked at')
  const full = new MemoryDisk(4 * REGION)
  full.write(0, 4 * REGION, Buffer.alloc(4 * REGION, 1), 0)
  t.same((await compareContents(content(a), content(full), { clock })).found, [{ offset: 0, length: 4 * REGION }])
})

t.test('zeros that both know are not read, nor is anything behind the end of the first', async t => {
  const size = 64 * REGION
  const [a, b] = [new MemoryDisk(size), new MemoryDisk(size + REGION)]
  const reads: number[] = []
  const counted = (disk: MemoryDisk): DeviceContent => content(disk, (offset, length, into, at) => {
    reads.push(offset)
    return disk.read(offset, length, into, at)
  })
  b.write(size, REGION, Buffer.alloc(REGION, 1), 0)
  a.write(3 * REGION, REGION, Buffer.alloc(REGION, 1), 0)
  b.write(3 * REGION, REGION, Buffer.alloc(REGION, 1), 0)
  const steps: number[] = []
  const onProgress = (done: number, total: number): void => { steps.push(done, total) }
  t.same((await compareContents(counted(a), counted(b), { clock, onProgress })).found, [])
  t.same(reads, [3 * REGION, 3 * REGION])
  t.same(steps.slice(-2), [REGION, REGION])
  await t.rejects(compareContents(content(b), content(a), { clock }), { code: 'bad-peer' }, 'the other one is shorter')
})

t.test('a disk that answers something else each time: the whole region is named', async t => {
  const [a, b] = [new MemoryDisk(REGION), new MemoryDisk(REGION)]
  for (const disk of [a, b]) disk.write(0, REGION, Buffer.alloc(REGION, 1), 0)
  let reads = 0
  const flaky = content(b, (offset, length, into, at) => {
    const read = b.read(offset, length, into, at)
    if (++reads === 1) into[at + 5000] = 2
    return read
  })
  t.same((await compareContents(content(a), flaky, { clock })).found, [{ offset: 0, length: REGION }])
})

t.test('what is let go of or cancelled is read no more; a rate is kept', async t => {
  const disk = new MemoryDisk(8 * REGION)
  disk.write(0, 8 * REGION, Buffer.alloc(8 * REGION, 1), 0)
  const gone = content(disk)
  const running = digestOf(gone, { clock })
  await gone.close()
  await t.rejects(running, { code: 'gone' })
  const abort = new AbortController()
  abort.abort()
  await t.rejects(digestOf(content(disk), { clock, signal: abort.signal }), { code: 'cancelled' })
  const slow = new ManualClock()
  let done = 0
  const paced = digestOf(content(disk), { clock: slow, bytesPerSecond: 2 * REGION, onProgress: bytes => { done = bytes } })
  const settle = async (): Promise<void> => { for (let turns = 0; turns < 200; turns++) await new Promise<void>(go => { setImmediate(go) }) }
  await settle()
  t.equal(done, 2 * REGION)
  await slow.advance(999)
  await settle()
  t.equal(done, 2 * REGION, 'the second is not over')
  for (let second = 0; second < 3; second++) {
    await slow.advance(1001)
    await settle()
  }
  t.match(await paced, /^[0-9a-f]{64}$/)
  const held = new AbortController()
  const waiting = digestOf(content(disk), { clock: slow, bytesPerSecond: REGION, signal: held.signal })
  await settle()
  held.abort()
  await t.rejects(waiting, { code: 'cancelled' }, 'at once, not when its time has come')
})
