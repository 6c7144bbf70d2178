// A secondary's entry that cannot be understood (damage that checks, a newer version): its volume is closed, not free to be written to.
import t from 'tap'
import { silentLogger } from '../../src/device/logger.js'
import { Secondaries } from '../../src/replication/secondaries.js'

const VOLUME = '00000000-0000-4000-8000-0000000000d1'

t.test('it fails closed', async t => {
  const entry = { uuid: '00000000-0000-4000-8000-0000000000d2', name: 'x', volume: VOLUME, state: { role: 'secondary', phase: 'of the moon' } }
  const secondaries = new Secondaries({ store: { mirrors: [entry], list: () => [] }, logger: silentLogger } as unknown as Secondaries['parts'])
  secondaries.start()
  t.match(secondaries.of(VOLUME), { phase: 'secondary', name: 'unknown' })
  t.equal(secondaries.declaredPoint(VOLUME), undefined)
})
