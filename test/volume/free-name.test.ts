// Names that nobody has yet: the plain one first, then numbered ones, gaps filled.
import t from 'tap'
import { freeName, freePointName } from '../../src/volume/free-name.js'

t.test('the first that nobody has', async t => {
  for (const [taken, name] of [[[], 'a'], [['a'], 'a.2'], [['a', 'a.2', 'a.3'], 'a.4'], [['a', 'a.3'], 'a.2'], [['a.2'], 'a']] as const) {
    const has = (name: string): boolean => (taken as readonly string[]).includes(name)
    t.equal(freeName('a', has), name)
    t.equal(freePointName({ points: { get: other => has(other) ? {} : undefined } }, 'a'), name)
  }
  t.equal(freeName('a', name => ['a', 'a-2'].includes(name), '-'), 'a-3')
})
