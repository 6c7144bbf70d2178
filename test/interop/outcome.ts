/**
 * Outcome: what one `nbdelta` command came to, and whether that is what docs/cli.md promises of any command.
 *
 * With --json: one document on standard output or nothing; errors as JSON lines on standard error; an exit code that is listed for the
 * command; fields that are listed, all of them; no number that is negative or none; no word of a stack or of a bug.
 */
import { COMMANDS, EXIT, type Command } from '../../src/control/commands.js'

export interface Fault { readonly code: string, readonly message: string, readonly hint: string | null, readonly exit: number }

export interface Outcome {
  readonly words: readonly string[]
  /** Null: it was killed because it did not end. */
  readonly exit: number | null
  readonly stdout: string
  readonly stderr: string
  readonly milliseconds: number
  readonly value: unknown
  readonly fault: Fault | undefined
}

const DRY_FIELDS = ['target', 'changed', 'dryRun', 'steps']
const BUG = /\n\s+at |internal|a bug in|\bundefined\b|\bNaN\b|\[object|TypeError|RangeError|ERR_[A-Z_]+|assert/

export function outcomeOf(words: readonly string[], exit: number | null, stdout: string, stderr: string, milliseconds: number): Outcome {
  const lines = stderr.split('\n').filter(line => line.startsWith('{'))
  const faults = lines.map(line => parsed(line) as { error?: Fault } | undefined).flatMap(one => one?.error ? [one.error] : [])
  return { words, exit, stdout, stderr, milliseconds, value: parsed(stdout), fault: faults.at(-1) }
}

function parsed(text: string): unknown {
  try { return JSON.parse(text) } catch { return undefined }
}

/** What is wrong with it whatever the store holds, or ''. */
export function judge(outcome: Outcome): string {
  const { words, exit, stdout, stderr, value, fault } = outcome
  const command = commandOf(words)
  const said = `${words.join(' ')}: exit ${exit}, ${stdout.slice(0, 600)} ${stderr.slice(0, 1500)}`
  if (exit === null) return `it does not end: ${said}`
  if (BUG.test(stderr)) return `it speaks of a bug: ${said}`
  if (!command.exits.some(name => EXIT[name] === exit)) return `exit code ${exit} is not one of ${words.slice(0, 2).join(' ')}: ${said}`
  if (exit !== 0) {
    if (!fault) return `it fails without saying why: ${said}`
    if (fault.exit !== exit) return `it says exit ${fault.exit}: ${said}`
    return stdout === '' ? '' : `it fails, and has a result: ${said}`
  }
  if (fault) return `it succeeds, and has an error: ${said}`
  if (command.result === null || (stdout === '' && words.includes('-'))) return ''
  if (value === undefined) return `the result is not JSON: ${said}`
  return wrongFields(command, value) ? `${wrongFields(command, value)}: ${said}` : ''
}

export function commandOf(words: readonly string[]): Command {
  const [noun, verb] = words
  const command = COMMANDS.find(one => one.noun === noun && (one.verb === '' || one.verb === verb))
  if (!command) throw new Error(`no such command: ${words.join(' ')}`)
  return command
}

function wrongFields({ result }: Command, value: unknown): string {
  if (Array.isArray(value) !== result!.many) return result!.many ? 'it is no array' : 'it is an array'
  const fields = Object.keys(result!.fields)
  for (const row of (result!.many ? value : [value]) as Record<string, unknown>[]) {
    const keys = Object.keys(row)
    if (!result!.many && row['dryRun'] === true && DRY_FIELDS.every(key => keys.includes(key))) continue
    const lacking = fields.filter(field => !keys.includes(field) && field !== 'note')
    const unknown = keys.filter(key => !fields.includes(key))
    if (lacking.length + unknown.length > 0) return `lacking fields ${lacking.join()}, fields that are not documented ${unknown.join()}`
    const bad = badNumber(row, '')
    if (bad) return bad
  }
  return ''
}

function badNumber(value: unknown, path: string): string {
  if (typeof value === 'number') return Number.isFinite(value) && value >= 0 ? '' : `${path} is ${value}`
  if (typeof value !== 'object' || value === null) return ''
  return Object.entries(value).map(([key, one]) => badNumber(one, `${path}.${key}`)).find(bad => bad) ?? ''
}
