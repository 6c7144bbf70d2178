// Section 6: what queries select, over the contexts of today and over some a device may offer one day.
import t from 'tap'
import { STATE_HOLE, STATE_ZERO } from '../../src/device/block-device.js'
import { MemoryDisk } from '../../src/device/memory-disk.js'
import { filterContexts, lookUpStatus } from '../../src/nbd/block-status.js'
import { CONTEXTS, listContexts, selectContexts, type MetadataContext } from '../../src/nbd/metadata-contexts.js'

const context = (name: string): MetadataContext => ({ name, extents: (_, _offset, length) => ({ lengths: [length], states: [0] }) })
const MANY = ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:a', 'qemu:dirty-bitmap:we:ird', 'x-own:thing'].map(context)
const names = (contexts: readonly MetadataContext[]): string[] => contexts.map(({ name }) => name)

t.test('C3 C6 C10: LIST', async t => {
  t.strictSame(names(listContexts(MANY, [])), names(MANY), 'no query: all')
  t.strictSame(names(listContexts(MANY, ['base:'])), ['base:allocation'])
  t.strictSame(names(listContexts(MANY, ['qemu:'])), names(MANY).slice(1, 4))
  t.strictSame(names(listContexts(MANY, ['qemu:dirty-bitmap:'])), names(MANY).slice(2, 4))
  t.strictSame(listContexts(MANY, ['qemu:dirty-bitmap', 'qemu', 'base', 'x-own:', '', ':', 'nowhere:at-all']), [], 'nothing, and no error')
  t.strictSame(names(listContexts(MANY, ['qemu:dirty-bitmap:we:ird', 'qemu:'])), names(MANY).slice(1, 4), 'each once')
})

t.test('C4 C6: SET takes exact names, each once', async t => {
  t.strictSame(selectContexts(MANY, []), [])
  t.strictSame(selectContexts(MANY, ['base:', 'qemu:', 'qemu:dirty-bitmap:']), [])
  const doubled = ['qemu:dirty-bitmap:we:ird', 'base:allocation', 'base:allocation']
  t.strictSame(names(selectContexts(MANY, doubled)), ['base:allocation', 'qemu:dirty-bitmap:we:ird'])
})

t.test('C9: base:allocation comes from the device', async t => {
  const disk = new MemoryDisk(65536)
  void disk.write(0, 4096, Buffer.alloc(4096, 1), 0)
  const [base] = CONTEXTS
  const found = await lookUpStatus(disk, [{ id: 1, context: base! }], { offset: 0, length: 65536 }, 10)
  t.match(found, [{ lengths: [4096, 61440], states: [0, STATE_HOLE | STATE_ZERO] }])
})

t.test('E5: a filter names known ids, each once', async t => {
  const selected = MANY.map((context, i) => ({ id: i + 1, context }))
  t.strictSame(filterContexts(selected, { length: 1, ids: [3, 1] })?.map(({ id }) => id), [1, 3])
  t.equal(filterContexts(selected, { length: 1, ids: [1, 1] }), undefined)
  t.equal(filterContexts(selected, { length: 1, ids: [1, 9] }), undefined)
})
