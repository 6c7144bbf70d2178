// Section 6: what queries select, over the contexts of today and over some a device may offer one day.
import t from 'tap'
import { STATE_HOLE, STATE_ZERO } from '../../src/device/block-device.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { filterContexts, lookUpStatus } from '../../src/nbd/block-status.js'
import { bindContexts, listContexts, LISTED_CONTEXTS_MAX, providedContexts, selectContexts } from '../../src/nbd/metadata-contexts.js'

const MANY = ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:a', 'qemu:dirty-bitmap:we:ird', 'x-own:thing']

t.test('C3 C6 C10: LIST', async t => {
  t.strictSame(listContexts(MANY, []), MANY, 'no query: all')
  t.strictSame(listContexts(MANY, ['base:']), ['base:allocation'])
  t.strictSame(listContexts(MANY, ['qemu:']), MANY.slice(1, 4))
  t.strictSame(listContexts(MANY, ['qemu:dirty-bitmap:']), MANY.slice(2, 4))
  t.strictSame(listContexts(MANY, ['qemu:dirty-bitmap', 'qemu', 'base', 'x-own:', '', ':', 'nowhere:at-all']), [], 'nothing, and no error')
  t.strictSame(listContexts(MANY, ['qemu:dirty-bitmap:we:ird', 'qemu:']), MANY.slice(1, 4), 'each once')
})

t.test('C3: LIST is bounded, exact names are found beyond the bound', async t => {
  const many = Array.from({ length: 5000 }, (_, i) => `qemu:dirty-bitmap:${i}`)
  t.strictSame(listContexts(many, []), many.slice(0, LISTED_CONTEXTS_MAX))
  t.strictSame(listContexts(many, ['qemu:']), many.slice(0, LISTED_CONTEXTS_MAX))
  t.strictSame(listContexts(many, ['qemu:dirty-bitmap:4999']), ['qemu:dirty-bitmap:4999'])
  t.strictSame(selectContexts(many, ['qemu:dirty-bitmap:4999']), ['qemu:dirty-bitmap:4999'])
})

t.test('C4 C6: SET takes exact names, each once', async t => {
  t.strictSame(selectContexts(MANY, []), [])
  t.strictSame(selectContexts(MANY, ['base:', 'qemu:', 'qemu:dirty-bitmap:']), [])
  const doubled = ['qemu:dirty-bitmap:we:ird', 'base:allocation', 'base:allocation']
  t.strictSame(selectContexts(MANY, doubled), ['base:allocation', 'qemu:dirty-bitmap:we:ird'])
})

t.test('C9 C11: base:allocation comes from the device, the others from what the provider bound', async t => {
  const disk = new MemoryDisk(65536)
  void disk.write(0, 4096, Buffer.alloc(4096, 1), 0)
  const asked: number[] = []
  const own = { extents: (_: number, length: number, most: number) => (asked.push(most), { lengths: [length], states: [7] }) }
  const info = { name: 'x', description: '', sizeBytes: 65536, readOnly: false, blockSizes: disk.blockSizes, capabilities: disk.capabilities }
  const selected = [{ id: 1, name: 'base:allocation' }, { id: 2, name: 'x-own:thing' }]
  t.strictSame(providedContexts(selected), ['x-own:thing'])
  const handle = { info, device: disk, contexts: new Map([['x-own:thing', own]]), release: () => {} }
  const found = await lookUpStatus(bindContexts(selected, handle), { offset: 0, length: 65536 }, 11)
  t.match(found, [{ lengths: [4096, 61440], states: [0, STATE_HOLE | STATE_ZERO] }, { lengths: [65536], states: [7] }])
  t.strictSame(asked, [5], 'B2: they share the extents of one reply')
  t.throws(() => bindContexts(selected, { info, device: disk, release: () => {} }), /without its context/, 'a provider that forgot one')
})

t.test('E5: a filter names known ids, each once', async t => {
  const selected = MANY.map((_, i) => ({ id: i + 1, source: new MemoryDisk(4096) }))
  t.strictSame(filterContexts(selected, { length: 1, ids: [3, 1] })?.map(({ id }) => id), [1, 3])
  t.equal(filterContexts(selected, { length: 1, ids: [1, 1] }), undefined)
  t.equal(filterContexts(selected, { length: 1, ids: [1, 9] }), undefined)
})
