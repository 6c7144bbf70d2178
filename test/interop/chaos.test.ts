// Three real servers, asked by the command line alone: all commands at random, under clients, kills, stops, cut links and full disks. A model
// knows what every export must read as and what every list must say (chaos-model.ts); names that begin with x are nobody's (chaos-storm.ts).
// Only with MINUTES (`make chaos`): lives are long, and the seed does not give the same life twice, for the servers have a time of their own.
import t from 'tap'
import { seedOfRun, seededRandom } from '../../scripts/interop/tools.js'
import { Chaos } from './chaos.js'

const MINUTES = Number(process.env['MINUTES'] ?? 0)
const STEPS = Number(process.env['STEPS'] ?? 60)
/** Where stores and logs are copied to when something goes wrong. */
const KEEP = process.env['KEEP']
const SHOWN_MAX = 8000

t.setTimeout(MINUTES * 60_000 + 300_000)

const skip = process.env['MINUTES'] === undefined ? 'only by make chaos' : process.getuid?.() !== 0 && 'needs root, to mount a small disk'

t.test('whatever operators and clients do, all reads and lists are right, and in the end nothing is left', { skip }, async t => {
  const seed = seedOfRun()
  t.comment(`seed ${seed}`)
  const random = seededRandom(seed)
  const chaos = await Chaos.start(random)
  t.teardown(() => chaos.close())
  for (const end = Date.now() + MINUTES * 60_000; chaos.totals.lives === 0 || Date.now() < end;) {
    const wrong = await chaos.live(STEPS, random() < 0.5)
    if (!wrong) continue
    t.comment(chaos.history())
    if (KEEP !== undefined) for (const host of chaos.hosts) host.keep(KEEP)
    return t.fail(`seed ${seed}, life ${chaos.totals.lives}: ${wrong.slice(0, SHOWN_MAX)}`)
  }
  for (const host of chaos.hosts) t.comment(host.errors().map(({ time, msg, err }) => `${host.name} ${time} ${msg} ${err?.message}`).join('\n'))
  t.comment(JSON.stringify(chaos.totals))
  t.pass('nothing went wrong')
})
