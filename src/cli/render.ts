/**
 * Results as text: lists as tables, single objects as lines, steps and jobs as sentences. Pure.
 * Text is for people and may change; what programs read is --json.
 */
import { formatSize } from '../control/options.js'
import type { Command, Field, JobRow, Result } from '../control/commands.js'

type Row = Readonly<Record<string, unknown>>

interface Pin { readonly owner: string, readonly expiresAt: string | null }
interface Range { readonly offset: number, readonly length: number }
interface Space {
  readonly volume?: string
  readonly budgetBytes: number | null
  readonly keptBytes: number
  readonly order: string
  readonly lastSacrifice: { readonly name: string, readonly at: string, readonly why: string } | null
  readonly failing: string | null
}
interface Verdict { readonly name: string, readonly keep: boolean, readonly reasons: readonly string[] }

/** Names and descriptions come from people: nothing in them may move the cursor. */
export function clean(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')
}

/** `3 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.floor(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`
  return `${Math.floor(whole / 86_400)} d ${Math.floor(whole % 86_400 / 3600)} h`
}

/** `4 KiB of 1 MiB, drop-undo-then-fail, gave up undo-a-1 at ... (budget full), writes fail (budget full)` */
function space({ budgetBytes, keptBytes, order, lastSacrifice, failing }: Space): string {
  const limit = budgetBytes === null ? ', no budget' : ` of ${formatSize(budgetBytes)}`
  const gone = lastSacrifice ? [`gave up ${clean(lastSacrifice.name)} at ${lastSacrifice.at} (${lastSacrifice.why} full)`] : []
  return [`${formatSize(keptBytes)}${limit}`, order, ...gone, ...failing ? [`writes fail (${failing} full)`] : []].join(', ')
}

function cell(field: Field, value: unknown): string {
  if (value === null || value === undefined || value === '') return '-'
  switch (field.type) {
    case 'bytes': return formatSize(value as number)
    case 'bool': return value ? 'yes' : 'no'
    case 'seconds': return formatSeconds(value as number)
    case 'milliseconds': return `${Math.round(value as number * 10) / 10} ms`
    case 'pins': return (value as Pin[]).map(pin => clean(pin.expiresAt ? `${pin.owner} (until ${pin.expiresAt})` : pin.owner))
      .join(', ') || '-'
    case 'labels': return Object.entries(value as Record<string, string>).map(([key, text]) => clean(`${key}=${text}`)).join(', ')
      || '-'
    case 'ranges': return (value as Range[]).map(({ offset, length }) => `\n  ${offset} +${length}`).join('') || '-'
    case 'verdicts': return (value as Verdict[]).map(({ name, keep, reasons }) =>
      `\n  ${keep ? 'keep' : 'drop'} ${clean(name)}: ${reasons.map(clean).join(', ')}`).join('') || '-'
    case 'space': return space(value as Space)
    case 'spaces': return (value as Space[]).map(one => `\n  ${clean(one.volume!)}: ${space(one)}`).join('') || '-'
    case 'notes': return (value as string[]).map(text => `\n  ${clean(text)}`).join('') || '-'
    case 'lines': return (value as string[]).map(clean).join(', ') || '-'
    default: return clean(String(value))
  }
}

function table(result: Result, rows: readonly Row[]): string {
  const columns = Object.entries(result.fields).filter(([, field]) => field.column)
  const lines = [columns.map(([, field]) => field.column!),
    ...rows.map(row => columns.map(([name, field]) => cell(field, row[name])))]
  const widths = columns.map((_, index) => Math.max(...lines.map(line => line[index]!.length)))
  const right = columns.map(([, field]) => field.type === 'bytes' || field.type === 'int')
  const pad = (text: string, index: number): string => right[index] ? text.padStart(widths[index]!) : text.padEnd(widths[index]!)
  return lines.map(line => line.map(pad).join('  ').trimEnd()).join('\n')
}

/** `eventLoopDelayMaxMs` -> `event loop delay max`; `verifiedAt` keeps its end beside `verified`. */
function title(name: string, names: readonly string[]): string {
  const short = name.replace(/(Bytes|Ms|Seconds|At)$/, '')
  return (names.includes(short) ? name : short).replace(/[A-Z]/g, letter => ` ${letter.toLowerCase()}`)
}

function details(result: Result, row: Row): string {
  const names = Object.keys(result.fields).filter(name => name in row)
  const width = Math.max(...names.map(name => title(name, names).length))
  return names.map(name => {
    const value = row[name]
    const exact = result.fields[name]!.type === 'bytes' && typeof value === 'number' && value >= 1024 ? ` (${value} bytes)` : ''
    return `${`${title(name, names)}:`.padEnd(width + 2)}${cell(result.fields[name]!, value)}${exact}`
  }).join('\n')
}

function steps(row: Row): string {
  const lines = (row.steps as string[]).map(clean)
  if (lines.length === 0) return clean(row.note as string | undefined ?? 'nothing to do')
  return lines.map(line => row.dryRun ? `would ${line}` : row.changed ? `done: ${line}` : line).join('\n')
}

function job(row: JobRow): string {
  const what = `${row.kind} of ${clean(row.volume)}`
  if (row.state === 'running') return `job ${row.id} runs: ${what}; see nbdelta job show ${row.id}`
  const seconds = (Date.parse(row.finishedAt!) - Date.parse(row.startedAt)) / 1000
  const done = `${what} ${row.state}: ${formatSize(row.doneBytes)} in ${seconds.toFixed(1)} s`
  return row.note === null ? done : `${done}\n${clean(row.note)}`
}

/** The text of a command's result, without a newline at its end. */
export function renderText(command: Command, result: unknown, quiet: boolean): string {
  const shape = command.result!
  if (shape.many) {
    const rows = result as Row[]
    if (quiet) return rows.map(row => clean(String(row[shape.key!]))).join('\n')
    return rows.length > 0 ? table(shape, rows) : `no ${command.noun}s`
  }
  const row = result as Row
  if ('steps' in row) return steps(row)
  if (command.longRunning) return job(result as JobRow)
  if (shape.sentence) return shape.sentence.replace(/\{(\w+)\}/g, (_, name: string) => cell(shape.fields[name]!, row[name]))
  if ('created' in row) {
    const what = row.created ? 'created volume' : 'there already: volume'
    return `${what} ${clean(String(row.name))}, ${formatSize(row.sizeBytes as number)}`
  }
  return details(shape, row)
}
