/**
 * Help pages, written from the command table: synopsis, description, arguments, options, answer, exit codes, examples.
 * Pure: rows in, text out. docs/cli.md is made of the same pieces.
 */
import { COMMANDS, EXIT, EXIT_MEANING, GLOBAL_OPTIONS, NOUNS, commandName } from '../control/commands.js'
import { exactSize } from '../control/options.js'
import type { Command } from '../control/commands.js'
import type { Parameter } from '../control/options.js'

/** Fits a terminal of the usual 80 columns. */
const COLUMNS = 78
const INDENT = '    '
const TERM_COLUMNS = 24

/** `-q, --quiet`, `--size SIZE`, `--no-wait`. */
export function optionTerm(option: Parameter): string {
  const long = option.type === 'bool' && option.default === true ? `--no-${option.name}` : `--${option.name}`
  return `${option.short ? `-${option.short}, ` : ''}${long}${option.value ? ` ${option.value}` : ''}`
}

/** The help text with what is accepted and what is assumed. */
export function optionHelp(option: Parameter): string {
  const notes: string[] = []
  if (option.choices && option.choices.length <= 8) notes.push(`one of ${option.choices.join(', ')}`)
  const sized = option.type === 'size' || option.type === 'rate'
  if (option.minimum !== undefined && option.minimum > 1 && sized) {
    notes.push(`at least ${exactSize(option.minimum)}`)
  }
  if (sized && option.maximum !== undefined) notes.push(`at most ${exactSize(option.maximum)}`)
  if (option.default !== undefined && option.type !== 'bool' && option.default !== '') {
    notes.push(`default ${option.type === 'size' ? exactSize(option.default as number) : option.default}`)
  }
  if (option.required) notes.push('required')
  return notes.length > 0 ? `${option.help} (${notes.join('; ')})` : option.help
}

/** `NAME`, `[VOLUME]`, `VOLUME...`. */
export function argumentTerm({ value, required, repeat }: Parameter): string {
  return required ? `${value}${repeat ? '...' : ''}` : `[${value}]`
}

/** `nbdelta volume create NAME [--size SIZE] ...` */
export function synopsis(command: Command): string {
  const words = ['nbdelta', commandName(command), ...command.positional.map(argumentTerm)]
  for (const option of command.options) {
    const term = optionTerm(option).replace(/^-\w, /, '')
    words.push(option.required ? term : `[${term}]${option.repeat ? '...' : ''}`)
  }
  return words.join(' ')
}

function wrap(text: string, indent: string, first = indent): string {
  const lines: string[] = []
  let line = first
  let fresh = true
  for (const word of text.split(' ')) {
    if (!fresh && line.length + 1 + word.length > COLUMNS) { lines.push(line); line = indent; fresh = true }
    line += fresh ? word : ` ${word}`
    fresh = false
  }
  return [...lines, line].join('\n')
}

function definition(term: string, text: string): string {
  const head = `${INDENT}${term}`
  const hang = ' '.repeat(INDENT.length + TERM_COLUMNS)
  return head.length < hang.length - 1 ? wrap(text, hang, head.padEnd(hang.length)) : `${head}\n${wrap(text, hang)}`
}

function section(title: string, lines: readonly string[]): string {
  return lines.length > 0 ? `${title}\n${lines.join('\n')}\n` : ''
}

function exitLines(command: Command): string[] {
  return [...command.exits].sort((a, b) => EXIT[a] - EXIT[b]).map(name => definition(String(EXIT[name]), EXIT_MEANING[name]))
}

/** The page of one command. */
export function commandHelp(command: Command): string {
  return [
    section('NAME', [wrap(`nbdelta ${commandName(command)} - ${command.summary}`, INDENT)]),
    section('SYNOPSIS', [wrap(synopsis(command), INDENT + INDENT, INDENT)]),
    section('DESCRIPTION', [wrap(command.description, INDENT)]),
    section('ARGUMENTS', command.positional.map(parameter => definition(argumentTerm(parameter), parameter.help))),
    section('OPTIONS', command.options.map(option => definition(optionTerm(option), optionHelp(option)))),
    section('GLOBAL OPTIONS', GLOBAL_OPTIONS.map(option => definition(optionTerm(option), optionHelp(option)))),
    section(command.result?.many ? 'ANSWER WITH --json: an array of objects' : 'ANSWER WITH --json: an object',
      Object.entries(command.result?.fields ?? {}).map(([name, field]) => definition(name, field.help))),
    section('EXIT CODES', exitLines(command)),
    section('EXAMPLES', command.examples.map(example => `${INDENT}nbdelta ${example}`)),
  ].filter(Boolean).join('\n')
}

/** The page of a noun: its verbs. */
export function nounHelp(noun: string): string {
  const verbs = COMMANDS.filter(command => command.noun === noun)
  return [
    section('NAME', [wrap(`nbdelta ${noun} - ${NOUNS[noun]}`, INDENT)]),
    section('COMMANDS', verbs.map(command => definition(commandName(command), command.summary))),
    `${INDENT}nbdelta ${noun} VERB --help tells more.\n`,
  ].join('\n')
}

/** What `nbdelta --help` prints. */
export function topHelp(): string {
  return [
    section('NAME', [wrap('nbdelta - network block device server', INDENT)]),
    section('SYNOPSIS', [`${INDENT}nbdelta serve --store DIR [--nbd ADDRESS]...`,
      `${INDENT}nbdelta NOUN VERB [ARGUMENT]... [OPTION]...`]),
    section('DESCRIPTION', [wrap('Serves volumes over the NBD protocol. `serve` runs the server; the other commands ask a '
      + 'running '
      + 'one over its control socket, which they find by --store, --control or NBDELTA_STORE.', INDENT)]),
    section('COMMANDS', COMMANDS.map(command => definition(commandName(command), command.summary))),
    section('GLOBAL OPTIONS', GLOBAL_OPTIONS.map(option => definition(optionTerm(option), optionHelp(option)))),
    section('ENVIRONMENT', [definition('NBDELTA_STORE', 'directory of the store, when neither --store nor --control is given')]),
    section('EXIT CODES',
      Object.entries(EXIT).map(([name, code]) => definition(String(code), EXIT_MEANING[name as keyof typeof EXIT]))),
    section('EXAMPLES',
      ['serve --store ./data --create-volume disk=1GiB', 'volume create disk --size 1GiB --store ./data', 'status --store ./data']
      .map(example => `${INDENT}nbdelta ${example}`)),
    `${INDENT}nbdelta COMMAND --help tells more about each.\n`,
  ].join('\n')
}
