// Which parts of a disk are believed to be cached: points per region, forgotten at once.
import t from 'tap'
import { seededRandom } from '../../src/device/testing.js'
import { TouchedRegions, TRUSTED_POINTS } from '../../src/device/touched-regions.js'

const MIB = 2 ** 20

t.test('a page that was touched is there, its neighbours are not', async t => {
  const regions = new TouchedRegions(4 * MIB)
  t.notOk(regions.has(0, 1))
  regions.touch(4097, 4096, 0)
  t.ok(regions.has(4096, 8192), 'both pages it met')
  t.notOk(regions.has(4095, 2))
  t.notOk(regions.has(8192, 4097))
  regions.touch(MIB - 10, 20, 0)
  t.ok(regions.has(MIB - 4096, 8192), 'across regions')
})

t.test('a region is trusted after enough evidence, a range by all of its regions', async t => {
  const regions = new TouchedRegions(8 * MIB + 1)
  regions.touch(100, 1, TRUSTED_POINTS)
  t.ok(regions.has(0, MIB))
  t.notOk(regions.has(0, MIB + 1))
  for (let i = 0; i < 3; i++) {
    t.notOk(regions.has(MIB, MIB))
    regions.touch(MIB + 5, 10, 1)
  }
  t.ok(regions.has(0, 2 * MIB))
  regions.touch(0, 10, 1)
  t.ok(regions.has(0, 2 * MIB), 'points do not overflow')
  for (let i = 0; i < 1000; i++) regions.touch(3 * MIB, 4096, 0)
  t.notOk(regions.has(3 * MIB, 8192), 'without points never')
  regions.touch(8 * MIB, 1, TRUSTED_POINTS)
  t.ok(regions.has(8 * MIB, 1), 'the odd byte at the end')
  regions.forget(MIB, 1)
  t.ok(regions.has(0, MIB))
  t.notOk(regions.has(MIB, 1))
})

t.test('forgetting everything is complete, also after all epochs are used up', async t => {
  const regions = new TouchedRegions(4 * MIB)
  for (let round = 0; round < 200; round++) {
    regions.touch(round % 4 * MIB, 1, TRUSTED_POINTS)
    regions.touch(((round + 1) % 4) * MIB, 1, 0)
    t.ok(regions.has(round % 4 * MIB, 1))
    regions.forgetAll()
    for (let i = 0; i < 4; i++) if (regions.has(i * MIB, 1)) t.fail(`round ${round}: region ${i} survived`)
  }
})

t.test('hits in a row vouch for ever larger windows, the first doubt makes them small again', async t => {
  const regions = new TouchedRegions(1024 * MIB)
  for (let round = 0; round < 6; round++) regions.vouch(512 * MIB, 4096)
  t.notOk(regions.has(512 * MIB, 64 * MIB), 'the sixth window was of 32 regions')
  regions.vouch(530 * MIB, 4096)
  t.ok(regions.has(512 * MIB, 64 * MIB))
  t.notOk(regions.has(576 * MIB, 1))
  for (let round = 0; round < 6; round++) regions.vouch(0, 4096)
  t.notOk(regions.has(64 * MIB, 1), 'never more than 64 MiB at once')
  regions.doubt()
  regions.vouch(700 * MIB, 4096)
  t.ok(regions.has(700 * MIB, MIB))
  t.notOk(regions.has(701 * MIB, 1))
  regions.vouch(1024 * MIB - 1, 1)
  t.ok(regions.has(1023 * MIB, MIB), 'the end of the disk')
})

t.test('large disks have larger regions, and resize keeps what is left', async t => {
  const startMs = performance.now()
  const huge = new TouchedRegions(2 ** 50)
  t.equal(huge.regionBytes, 256 * MIB)
  huge.touch(2 ** 50 - 1, 1, TRUSTED_POINTS)
  t.ok(huge.has(2 ** 50 - 10, 10))
  t.comment(`1 PiB in ${(performance.now() - startMs).toFixed(1)} ms`)
  const small = new TouchedRegions(2 * MIB)
  small.touch(0, 1, TRUSTED_POINTS)
  small.resize(10 * MIB)
  t.ok(small.has(0, 1))
  t.notOk(small.has(9 * MIB, 1))
  small.touch(9 * MIB, 1, TRUSTED_POINTS)
  t.ok(small.has(9 * MIB, 1))
})

t.test('any order of touches, doubts and sizes: what a list of pages and regions says', async t => {
  const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)
  t.comment(`SEED=${seed}`)
  const random = seededRandom(seed)
  const PAGE = 4096
  const PAGES = MIB / PAGE
  for (let run = 0; run < 20; run++) {
    let size = (1 + random(40)) * MIB / 2
    const regions = new TouchedRegions(size)
    const pages = new Set<number>()
    const trusted = new Set<number>()
    const has = (page: number): boolean => trusted.has(Math.floor(page / PAGES)) || pages.has(page)
    for (let step = 0; step < 400; step++) {
      const at = random(size / PAGE)
      const count = Math.min(1 + random(random(4) === 0 ? 2 * PAGES : 3), size / PAGE - at)
      const last = Math.floor((at + count - 1) / PAGES)
      const what = random(20)
      if (what === 0) {
        const before = size
        size = (1 + random(40)) * MIB / 2
        regions.resize(size)
        for (const page of pages) if (size < before && page >= Math.floor(size / MIB) * PAGES) pages.delete(page)
        for (const region of trusted) if (region >= Math.ceil(size / MIB)) trusted.delete(region)
      } else if (what === 1) {
        regions.forget(at * PAGE, count * PAGE)
        for (let region = Math.floor(at / PAGES); region <= last; region++) {
          trusted.delete(region)
          for (let page = region * PAGES; page < (region + 1) * PAGES; page++) pages.delete(page)
        }
      } else if (what === 2) {
        regions.touch(at * PAGE, count * PAGE, TRUSTED_POINTS)
        for (let region = Math.floor(at / PAGES); region <= last; region++) trusted.add(region)
      } else {
        regions.touch(at * PAGE, count * PAGE, 0)
        for (let page = at; page < at + count; page++) if (!trusted.has(Math.floor(page / PAGES))) pages.add(page)
        for (let region = Math.floor(at / PAGES); region <= last; region++) {
          const there = Math.min(PAGES, size / PAGE - region * PAGES)
          if ([...Array(there).keys()].every(page => has(region * PAGES + page))) trusted.add(region)
        }
      }
      for (let page = 0; page < size / PAGE; page++) {
        if (regions.has(page * PAGE, PAGE) !== has(page)) return t.fail(`run ${run}, step ${step}: page ${page}`)
      }
    }
  }
  t.pass('all the same')
})
