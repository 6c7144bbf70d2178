/**
 * docs/bench-results.md: medians, ratios, goals met or not, and everything needed to measure again.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, release, totalmem } from 'node:os'
import { medianOf, ratioOf } from './results.js'
import type { Comparison, Figure, Results } from './results.js'
import { BARE, EXPORT, peerNames, sideNames, sideOf } from './sides.js'
import { goalsOf, isStream, parseWorkload } from './workloads.js'
import type { Goal } from './workloads.js'

const OURS = 'nbdelta'

export interface Verdict {
  readonly workload: string
  readonly goal: Goal
  readonly ratio: number
  readonly peer: string
  readonly met: boolean
}

/** Every goal of one workload, judged. Peers that could not be measured are left out; without any there is no verdict. */
export function judge(name: string, comparison: Comparison, whose = OURS): Verdict[] {
  return goalsOf(parseWorkload(name)).flatMap(goal => {
    const metric = goal.metric === 'rate' ? 'rate' : 'cpuUs'
    const ratios = (goal.against === 'best' ? peerNames() : [goal.against])
      .map(peer => ({ peer, ratio: ratioOf(comparison, whose, peer, metric) })).filter(({ ratio }) => !Number.isNaN(ratio))
    if (ratios.length === 0) return []
    // The best peer is the one that leaves us the worst ratio.
    const worst = ratios.reduce((a, b) => (goal.metric === 'rate' ? b.ratio < a.ratio : b.ratio > a.ratio) ? b : a)
    const met = goal.metric === 'rate' ? worst.ratio >= goal.bound : worst.ratio <= goal.bound
    return [{ workload: name, goal, ...worst, met }]
  })
}

function number(value: number, digits = 0): string {
  return Number.isNaN(value) ? '-' : value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits })
}

function ratioText({ goal, ratio, peer }: Verdict): string {
  return `${ratio.toFixed(2)} of ${peer}${goal.metric === 'rate' ? '' : "'s CPU"}`
}

function verdictText(verdict: Verdict): string {
  const { goal, met } = verdict
  return `${met ? 'met' : '**missed**'}: ${ratioText(verdict)} (${goal.metric === 'rate' ? '>=' : '<='} ${goal.bound})`
}

/** One line for the terminal while measuring. */
export function summaryOf(name: string, comparison: Comparison): string {
  const unit = isStream(parseWorkload(name)) ? 'MB/s' : 'op/s'
  const sides = Object.keys(comparison.samples).map(side =>
    `${side} ${number(medianOf(comparison, side, 'rate'))} ${unit} (${medianOf(comparison, side, 'cpuUs').toFixed(1)} us)`)
  return `${name}: ${sides.join(', ')}\n  ${judge(name, comparison).map(verdictText).join('\n  ')}`
}

/** What plain Node reaches of a goal on this machine, and how much of that nbdelta does: where the limit is. */
function bareText(name: string, comparison: Comparison): string {
  const ofBare = ratioOf(comparison, OURS, BARE, 'rate')
  if (Number.isNaN(ofBare)) return ''
  return `${judge(name, comparison, BARE).map(ratioText).join('<br>')}<br>nbdelta: ${ofBare.toFixed(2)} of it`
}

function comparisonTable(title: string, names: readonly string[], results: Results): string {
  if (names.length === 0) return ''
  const sides = sideNames()
  const rows = names.map(name => {
    const comparison = results.comparisons[name]!
    const cell = (side: string): string =>
      `${number(medianOf(comparison, side, 'rate'))} (${number(medianOf(comparison, side, 'cpuUs'), 1)})`
    const verdicts = judge(name, comparison).map(verdictText).join('<br>')
    const rounds = `${comparison.rounds} x ${comparison.seconds} s`
    return `| ${name} | ${sides.map(cell).join(' | ')} | ${verdicts} | ${bareText(name, comparison)} | ${rounds} |`
  })
  return [`## ${title}`, '', `| workload | ${sides.join(' | ')} | goal | bare | rounds |`,
    `| --- | ${sides.map(() => '---').join(' | ')} | --- | --- | --- |`, ...rows, ''].join('\n')
}

function isMet({ value, limit, floor }: Figure): boolean {
  return limit === undefined ? value >= floor! : value <= limit
}

function specialTable(results: Results): string {
  const goalText = (figure: Figure): string => {
    const { unit, limit, floor } = figure
    if (limit === undefined && floor === undefined) return ''
    return `${isMet(figure) ? 'met' : '**missed**'} (${limit === undefined ? `>= ${floor}` : `<= ${limit}`} ${unit})`
  }
  const rows = Object.entries(results.specials).flatMap(([name, { figures }]) => figures.map(figure =>
    `| ${name} | ${figure.what} | ${number(figure.value, figure.value < 10 ? 2 : figure.value < 100 ? 1 : 0)} ${figure.unit} | ${goalText(figure)} |`))
  if (rows.length === 0) return ''
  return ['## Other measurements', '', '| measurement | what | value | goal |', '| --- | --- | --- | --- |', ...rows, ''].join('\n')
}

function versionOf(command: readonly string[]): string {
  try {
    return execFileSync(command[0]!, command.slice(1), { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim()
      .split('\n')[0]!
  } catch { return 'not there' }
}

function setup(): string {
  const os = /PRETTY_NAME="(.*)"/.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'Linux'
  const processors = `${cpus().length} x ${cpus()[0]?.model ?? 'unknown CPU'}`
  const place = { directory: 'DIR', file: 'FILE', socket: 'SOCKET', port: 10809 }
  const commands = sideNames().filter(name => name !== 'nbd-server')
    .map(name => sideOf(name).command(place, 'unix').join(' ')
    .replace(process.execPath, 'node').replace(/\S*\/(bin\/nbdelta\.cjs|dist\/\S*)/, '$1'))
  return [
    '## Setup', '',
    `- Machine: ${processors}, ${Math.round(totalmem() / 2 ** 30)} GiB, ${os}, Linux ${release()}, Node ${process.version}`,
    ...[OURS, ...peerNames()].map(name => `- ${name}: ${versionOf(sideOf(name).version)}`),
    `- fio: ${versionOf(['fio', '--version'])}; nbdcopy: ${versionOf(['nbdcopy', '--version'])}`,
    '', 'Servers (over TCP with `--nbd tcp:`, `-p`, `port =` instead):', '', '```',
    `node bin/nbdelta.cjs volume create ${EXPORT} --backing FILE --store DIR/store-FILE     # once`,
    ...commands,
    'nbd-server -C DIR/nbd-server.conf -p DIR/nbd-server.pid',
    `#   the file: [generic] unixsock = SOCKET, listenaddr, port; [${EXPORT}] exportname = FILE`,
    '```', '', 'Clients:', '', '```',
    'nbdload --socket SOCKET --export NAME --mode KIND --bs BYTES --depth N --conns N --seconds S --warm 0.3',
    'fio --ioengine=nbd --uri=URI --rw=KIND --bs=BYTES --iodepth=N --numjobs=N --thread --norandommap --time_based \\',
    '    --runtime=S --ramp_time=300ms',
    'nbdcopy URI null:     nbdcopy RANDOM_FILE URI          # one before, out or of 256 MiB in, is not counted',
    '```', '',
  ].join('\n')
}

export function renderReport(results: Results): string {
  const names = Object.keys(results.comparisons)
  const verdicts = names.flatMap(name => judge(name, results.comparisons[name]!))
  const limited = Object.values(results.specials).flatMap(special => special.figures)
    .filter(({ limit, floor }) => limit !== undefined || floor !== undefined)
  const met = verdicts.filter(verdict => verdict.met).length + limited.filter(isMet).length
  const small = names.filter(name => !isStream(parseWorkload(name)))
  const streams = names.filter(name => isStream(parseWorkload(name)))
  const when = [...Object.values(results.comparisons), ...Object.values(results.specials)].map(one => one.when).sort()
  return [
    '# Benchmark results', '',
    `Written by \`make bench\` on ${when.at(-1) ?? 'no day'}; ${met} of ${verdicts.length + limited.length} goals met.`, '',
    'Each figure is the median of the rounds; in brackets the server\'s CPU microseconds for one operation (for copies: for',
    '256 KiB). Within a round the servers take turns on the same file, started anew each time, in reversed order every other',
    'round. A ratio is the median of the ratios within each round, to the peer that leaves the worst one. The file is wholly in',
    'the page cache, but for `cold`. Each server has worked a moment before it is measured, but for `cold` as well.', '',
    '[performance.md](performance.md) says what limits nbdelta, and what was tried.', '',
    '`bare` is no peer but what plain Node costs on the machine: a server on one thread that does nothing but decode, pread or pwrite',
    'and reply (scripts/bench/bare-server.ts). A goal that it does not come near no server of this kind reaches there.', '',
    comparisonTable('Small blocks (operations a second)', small, results),
    comparisonTable('Streams and copies (MB/s)', streams, results),
    specialTable(results), setup(),
  ].join('\n')
}
