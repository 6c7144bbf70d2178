// Turns: one after the other, whatever becomes of them; and whether somebody waits.
import t from 'tap'
import { Turns } from '../../src/device/turns.js'

t.test('somebody waits from when the second has asked until the first has ended', async t => {
  const turns = new Turns()
  t.notOk(turns.isAwaited)
  let end = (): void => undefined
  const first = turns.take(() => new Promise<void>(resolve => { end = resolve }))
  t.notOk(turns.isAwaited)
  const order: string[] = []
  const second = turns.take(async () => {
    order.push('second')
    t.ok(turns.isAwaited, 'by the third')
    throw new Error('planted')
  })
  second.catch(() => undefined)
  const third = turns.take(async () => {
    order.push('third')
    t.notOk(turns.isAwaited)
  })
  t.ok(turns.isAwaited)
  await Promise.resolve()
  t.strictSame(order, [])
  end()
  await first
  await t.rejects(second, { message: 'planted' })
  await third
  await turns.idle
  t.strictSame(order, ['second', 'third'])
  t.notOk(turns.isAwaited)
})
