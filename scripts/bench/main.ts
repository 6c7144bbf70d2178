/**
 * `make bench`: nbdelta side by side with nbdkit, qemu-nbd and nbd-server on the same file; see workloads.ts for what is
 * measured and clients.ts for how. Without arguments everything is measured, which takes most of an hour;
 * `make bench BENCH="-w lean,fio -n 3 -t 1.5"` takes some minutes. Figures of earlier runs are kept and stay in the report.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { measure } from './clients.js'
import type { Sample } from './clients.js'
import { renderReport, summaryOf } from './report.js'
import { loadResults, saveResults } from './results.js'
import type { Comparison } from './results.js'
import { BARE, sideNames, sideOf, startSide } from './sides.js'
import { SPECIALS } from './specials.js'
import { Workbench } from './workbench.js'
import { expandNames, isSpecial, parseWorkload, setNames } from './workloads.js'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
const OTHERS = sideNames().slice(1).join(',')
const HELP = `node dist/scripts/bench/main.js [options]
  -w, --workloads LIST   sets (${setNames().join(' ')}) or single workloads, comma separated; default all
  -n, --rounds N         rounds of each (5)
  -t, --seconds S        duration of one measurement (3)
  -p, --peers LIST       peers to compare with (${OTHERS}; ${BARE}: plain Node, see bare-server.ts)
      --size MIB         size of the served file (1024); the cold one is twice as large
      --work DIR         data files and earlier figures (.cache/bench)
      --out FILE         report (docs/bench-results.md)
      --report           measure nothing, write the report anew`

function options() {
  const { values } = parseArgs({ options: {
    workloads: { type: 'string', short: 'w', default: 'all' }, rounds: { type: 'string', short: 'n', default: '5' },
    seconds: { type: 'string', short: 't', default: '3' }, peers: { type: 'string', short: 'p', default: OTHERS },
    size: { type: 'string', default: '1024' }, work: { type: 'string', default: join(ROOT, '.cache', 'bench') },
    out: { type: 'string', default: join(ROOT, 'docs', 'bench-results.md') }, report: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  } })
  const amount = (name: 'rounds' | 'seconds' | 'size'): number => {
    const value = Number(values[name])
    if (!(value > 0)) throw new Error(`--${name} ${values[name]} is not an amount`)
    return value
  }
  return {
    names: values.report ? [] : expandNames(values.workloads),
    sides: ['nbdelta', ...values.peers.split(',').filter(Boolean)].map(sideOf),
    rounds: amount('rounds'), seconds: amount('seconds'), sizeBytes: amount('size') * 2 ** 20,
    work: values.work, out: values.out, help: values.help,
  }
}
type Options = ReturnType<typeof options>

/** One workload, all sides, all rounds: A B C D, D C B A, A B C D ... A side that fails is reported and left out. */
async function compare(bench: Workbench, name: string, { sides, rounds, seconds }: Options): Promise<Comparison> {
  const workload = parseWorkload(name)
  const samples: Record<string, (Sample | null)[]> = Object.fromEntries(sides.map(side => [side.name, []]))
  for (let round = 0; round < rounds; round++) {
    for (const side of round % 2 === 0 ? sides : [...sides].reverse()) {
      try {
        const place = await bench.placeOf(side.name, await (workload.client === 'cold' ? bench.cold() : bench.hot()))
        const server = await startSide(side, place, workload.transport)
        try {
          samples[side.name]!.push(await measure({ bench, side, place, server, workload, seconds }))
        } finally { await server.stop() }
      } catch (error) {
        console.log(`  ! ${name} ${side.name}: ${(error as Error).message}`)
        samples[side.name]!.push(null)
      }
    }
  }
  return { when: new Date().toISOString().slice(0, 10), rounds, seconds, samples }
}

async function main(): Promise<void> {
  const chosen = options()
  if (chosen.help) { console.log(HELP); return }
  const bench = new Workbench(chosen.work, chosen.sizeBytes)
  if (chosen.names.length > 0) await bench.prepare()
  const results = loadResults(chosen.work)
  try {
    for (const name of chosen.names) {
      if (isSpecial(name)) {
        try {
          const figures = await SPECIALS[name]!(bench, chosen)
          results.specials[name] = { when: new Date().toISOString().slice(0, 10), figures }
          console.log(`${name}:\n${figures.map(({ what, value, unit }) => `  ${what}: ${value.toFixed(1)} ${unit}`).join('\n')}`)
        } catch (error) { console.log(`  ! ${name}: ${(error as Error).message}`) }
      } else {
        results.comparisons[name] = await compare(bench, name, chosen)
        console.log(summaryOf(name, results.comparisons[name]))
      }
      saveResults(chosen.work, results)
    }
  } finally { bench.close() }
  writeFileSync(chosen.out, renderReport(results))
  console.log(`written: ${chosen.out}`)
}

main().catch((error: unknown) => {
  console.error((error as Error).message)
  process.exitCode = 1
})
