// Many files, few open at once: each is a device like any other, nothing is lost when one is closed to make room, and a flush
// that failed is not forgotten.
import { mkdtempSync, readdirSync, readlinkSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { blockDeviceConformance } from '../../src/device/conformance.js'
import { FileDisk } from '../../src/device/file-disk.js'
import { seededRandom } from '../../src/device/random.js'
import { FilePool, type PooledFile } from '../../src/store/file-pool.js'

const SEED = Number(process.env.SEED ?? Date.now() % 1e9)
t.comment(`SEED=${SEED}`)
t.setTimeout(120_000)
const root = mkdtempSync(join(tmpdir(), 'nbdelta-pool-'))
t.teardown(() => rmSync(root, { recursive: true, force: true }))
let count = 0
function freshFile(sizeBytes: number): string {
  const path = join(root, `${count++}`)
  writeFileSync(path, '')
  truncateSync(path, sizeBytes)
  return path
}
/** Descriptors of this process that point below `root`. */
function openNow(): number {
  const targets = readdirSync('/proc/self/fd').map(fd => { try { return readlinkSync(`/proc/self/fd/${fd}`) } catch { return '' } })
  return targets.filter(target => target.startsWith(root)).length
}

t.test('conformance, with room and while others crowd it out', async t => {
  const pool = new FilePool(4)
  await blockDeviceConformance(t, 'alone', size => pool.file(freshFile(size)), { requests: 400 })
  t.equal(pool.handles, 0)
  const crowded = new FilePool(2)
  const others = await Promise.all(Array.from({ length: 3 }, () => crowded.file(freshFile(4096))))
  let going = true
  const crowd = (async () => {
    while (going) {
      for (const other of others) await other.read(0, 512, Buffer.alloc(512), 0)
      await new Promise(resolve => { setImmediate(resolve) })
    }
  })()
  await blockDeviceConformance(t, 'crowded', size => crowded.file(freshFile(size)), { requests: 200 })
  going = false
  await crowd
  await Promise.all(others.map(other => other.close()))
  t.equal(crowded.handles, 0)
  t.equal(openNow(), 0)
})

t.test('a thousand files, all at once, never more than the cap open', async t => {
  const random = seededRandom(SEED)
  const pool = new FilePool(8)
  const files: PooledFile[] = []
  for (let i = 0; i < 1000; i++) files.push(await pool.file(freshFile(8192)))
  t.equal(pool.handles, 0, 'nothing is opened before it is used')
  let most = 0
  const look = (): void => { most = Math.max(most, pool.handles, openNow()) }
  await Promise.all(files.map(async (file, i) => {
    await file.write(i % 100, 4, Buffer.from([i >> 8, i, i >> 8, i]), 0)
    if (i % 10 === 0) look()
  }))
  for (let i = 0; i < 2000; i++) {
    const n = random(1000)
    const into = Buffer.alloc(4)
    await files[n].read(n % 100, 4, into, 0)
    if (into.readUInt16BE(0) !== n || into.readUInt16BE(2) !== n) t.fail(`file ${n}`)
    if (i % 100 === 0) look()
  }
  t.ok(most <= 8, `${most} open`)
  await Promise.all(files.map(file => file.close()))
  t.strictSame([pool.handles, openNow()], [0, 0])
})

t.test('what is used stays open, what was used longest ago goes', async t => {
  const pool = new FilePool(3)
  const [a, b, c, d] = await Promise.all(Array.from({ length: 4 }, () => pool.file(freshFile(4096))))
  const use = async (file: PooledFile): Promise<void> => { await file.read(0, 512, Buffer.alloc(512), 0) }
  for (const file of [a, b, c, a]) await use(file)
  await use(d)
  t.strictSame([a, b, c, d].map(file => file.idle), [true, false, true, true], 'b was closed')
  let atOnce = 0
  for (let i = 0; i < 100; i++) {
    const pending = a.write(0, 4096, Buffer.alloc(4096), 0)
    if (pending) await pending
    else atOnce++
  }
  t.ok(atOnce > 0, 'an open one can complete at once')
  await Promise.all([a, b, c, d].map(file => file.close()))
})

t.test('closed to make room is flushed; a flush that fails keeps the file open, and goes on failing', async t => {
  const pool = new FilePool(2)
  const [a, b, c, d] = await Promise.all(Array.from({ length: 4 }, () => pool.file(freshFile(4096))))
  const flushed: string[] = []
  const { flush } = FileDisk.prototype
  t.teardown(() => { FileDisk.prototype.flush = flush })
  FileDisk.prototype.flush = function (this: FileDisk) {
    flushed.push(this.path)
    return this.path === b.path ? Promise.reject(new Error('EIO')) : flush.call(this)
  }
  const use = async (file: PooledFile): Promise<void> => { await file.write(0, 512, Buffer.alloc(512, 1), 0) }
  await use(a)
  await use(b)
  await use(c)
  t.strictSame(flushed, [a.path])
  await use(d)
  await use(a)
  t.ok(flushed.includes(b.path))
  t.notOk(b.idle, 'it is never closed again to make room')
  t.ok(pool.handles <= 3)
  await t.rejects(Promise.resolve(b.flush()), /EIO/)
  await Promise.all([a, b, c, d].map(file => file.close()))
  t.equal(pool.handles, 0)
})

t.test('what cannot be opened fails for who asks, and takes no handle', async t => {
  const pool = new FilePool(2)
  await t.rejects(pool.file(join(root, 'nothing')), { code: 'not-found' })
  const file = await pool.file(freshFile(4096))
  rmSync(file.path)
  const attempt = async (): Promise<void> => { await file.read(0, 512, Buffer.alloc(512), 0) }
  for (const outcome of await Promise.allSettled([attempt(), attempt(), attempt()])) {
    t.equal(outcome.status === 'rejected' && outcome.reason.code, 'not-found')
  }
  t.equal(pool.handles, 0)
  await file.close()
})

t.test('a resize is seen, by whoever opens it later as well', async t => {
  const pool = new FilePool(2)
  const file = await pool.file(freshFile(4096))
  await file.resize(1 << 20)
  await file.write((1 << 20) - 4, 4, Buffer.from('last'), 0)
  t.equal(file.sizeBytes, 1 << 20)
  t.ok(await file.allocatedBytes() > 0)
  await file.close()
  t.equal((await pool.file(file.path)).sizeBytes, 1 << 20)
})
