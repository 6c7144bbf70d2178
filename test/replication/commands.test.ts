// Every command in every state: the table of docs/mirrors.md, and what real mirrors do (SEEDS D9).
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { NbdeltaError } from '../../src/device/errors.js'
import type { Mirror } from '../../src/replication/mirror.js'
import type { Phase } from '../../src/replication/mirror-record.js'
import { TABLE, type Verb } from '../../src/replication/mirror-state.js'
import { fill, Lab } from './lab.js'

/** Timers of the store do not keep the process. */
const awake = setInterval(() => undefined, 1000)
t.teardown(() => clearInterval(awake))
t.setTimeout(240_000)

const PHASES = Object.keys(TABLE) as Phase[]
const VERBS = Object.keys(TABLE.paired) as Verb[]

t.test('the page shows the table', async t => {
  const page = readFileSync(fileURLToPath(new URL('../../../docs/mirrors.md', import.meta.url)), 'utf8')
  const shown = VERBS.map(verb => `| ${verb} | ${PHASES.map(phase => TABLE[phase][verb].rule).join(' | ')} |`)
  t.ok(page.includes(`| | ${PHASES.join(' | ')} |`))
  for (const line of shown) t.ok(page.includes(line), line)
})

/** A mirror that is in this state and stays there: in two of them its target refuses to be written to. */
async function arranged(lab: Lab, phase: Phase): Promise<Mirror> {
  const volume = await lab.volume('v', 8)
  await fill(volume, 0, 1)
  if (phase === 'copying') {
    await lab.volume('w', 8)
    refuseWrites(lab)
    const mirror = await lab.mirrors.create(
      { name: 'm', volume: 'v', target: 'w', intervalSeconds: 60, lagBytes: null, bytesPerSecond: null, overwrite: false })
    await mirror.sync().catch(() => undefined)
    return mirror
  }
  const mirror = await lab.mirror({ volume: 'v', target: 'w' })
  if (phase === 'paired') return mirror
  await mirror.split({ atOnce: true })
  if (phase === 'split') return mirror
  await fill(volume, 1, 2)
  refuseWrites(lab)
  await mirror.beginResync({ whole: false })
  return mirror
}

function refuseWrites(lab: Lab): void {
  lab.store.get('w')!.write = () => { throw new NbdeltaError('io', 'refused') }
}

const DO: Readonly<Record<Verb, (mirror: Mirror, lab: Lab) => Promise<unknown>>> = {
  sync: mirror => mirror.sync(),
  pause: mirror => mirror.pause(),
  resume: async mirror => {
    await mirror.pause()
    return mirror.resume()
  },
  split: mirror => mirror.split({ atOnce: true }),
  resync: async mirror => {
    const { phase } = mirror.state
    await mirror.beginResync({ whole: false })
    return mirror.state.phase !== phase
  },
  reverse: (_, lab) => lab.mirrors.together(['m']).reverse(),
  verify: mirror => mirror.verify(),
  delete: (_, lab) => lab.mirrors.delete('m'),
}

for (const phase of PHASES) {
  for (const verb of VERBS) {
    t.test(`${verb} while ${phase}: ${TABLE[phase][verb].rule}`, async t => {
      const lab = await Lab.open(t.testdir())
      const mirror = await arranged(lab, phase)
      t.equal(mirror.state.phase, phase)
      const outcome = await DO[verb](mirror, lab).then(result => result === false ? 'nothing' : 'accept',
        (error: unknown) => error instanceof NbdeltaError && error.code === 'wrong-state' ? 'reject'
          : error instanceof NbdeltaError && error.code === 'io' ? 'accept' : String(error))
      t.equal(outcome, TABLE[phase][verb].rule)
      if (outcome !== 'accept') t.equal(mirror.state.phase, phase)
      await lab.close()
    })
  }
}

const BEHIND: Readonly<Record<string, (mirror: Mirror, lab: Lab) => Promise<unknown>>> = {
  pause: mirror => mirror.pause(),
  split: mirror => mirror.split({ atOnce: true }),
  'whole resync': mirror => mirror.beginResync({ whole: true }),
  'whole resync of several': (_, lab) => lab.mirrors.together(['m']).beginResync({ whole: true }),
}

for (const [what, ask] of Object.entries(BEHIND)) {
  t.test(`${what} behind a deletion does not bring the mirror back`, async t => {
    const lab = await Lab.open(t.testdir())
    const mirror = await arranged(lab, 'paired')
    const deleted = lab.mirrors.delete('m')
    await t.rejects(ask(mirror, lab), { code: 'not-found' })
    await deleted
    t.same(lab.store.mirrors, [])
    await lab.close()
  })
}
