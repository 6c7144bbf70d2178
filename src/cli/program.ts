/**
 * Argument vector -> invocation, by a commander program built from the command table. Nothing is run here.
 *
 * Values are judged as they are read, with the server's own functions. Global options may stand before or behind the
 * command. Whatever is wrong is a NbdeltaError `bad-argument` with the page to read as its hint.
 */
import { Argument, Command as Program, CommanderError, Option } from 'commander'
import { COMMANDS, GLOBAL_OPTIONS, NOUNS, NbdeltaError, commandName } from '../control/commands.js'
import { judge, label, wireName } from '../control/options.js'
import { commandHelp, nounHelp, topHelp } from './help.js'
import { splitPoints } from './point-words.js'
import type { Command } from '../control/commands.js'
import type { Parameter } from '../control/options.js'

export interface Globals { readonly store: string | undefined, readonly control: string | undefined, readonly json: boolean }

export type Invocation =
  | { readonly kind: 'command', readonly command: Command, readonly args: Record<string, unknown>, readonly globals: Globals }
  | { readonly kind: 'help', readonly text: string }

/** @throws NbdeltaError bad-argument */
export function parseArguments(argv: readonly string[]): Invocation {
  let found: Invocation | undefined
  let page = ''
  const pages = new Map<Program, string>()
  const program = new Program('nbdelta')
  program.exitOverride().configureOutput({ writeOut: text => { page = text }, writeErr: () => {} })
  program.configureHelp({ formatHelp: command => pages.get(command as Program) ?? topHelp() })
  for (const option of GLOBAL_OPTIONS) if (option.name !== 'help') for (const built of optionsOf(option)) program.addOption(built)
  for (const noun of Object.keys(NOUNS)) pages.set(program.command(noun), nounHelp(noun))
  for (const command of COMMANDS) {
    const parent = command.verb === '' ? program : program.commands.find(other => other.name() === command.noun)!
    const built = parent.command(command.verb || command.noun)
    pages.set(built, commandHelp(command))
    for (const parameter of command.positional) built.addArgument(argumentOf(parameter))
    for (const option of command.options) for (const one of optionsOf(option)) built.addOption(one)
    built.action((...values: unknown[]) => { found = invocation(command, values, built.opts(), program.opts()) })
  }
  try {
    program.parse(splitPoints(argv), { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    if (error.exitCode === 0) return { kind: 'help', text: page }
    throw usageError(error, argv)
  }
  return found ?? { kind: 'help', text: topHelp() }
}

function argumentOf(parameter: Parameter): Argument {
  const value = `${parameter.value}${parameter.repeat ? '...' : ''}`
  const argument = new Argument(parameter.required ? `<${value}>` : `[${value}]`, parameter.help)
  if (!parameter.repeat) return argument.argParser(text => judgeNamed(parameter, text))
  return argument.argParser<unknown[]>((text, before) => [...before ?? [], judgeNamed(parameter, text)])
}

function optionsOf(option: Parameter): Option[] {
  const short = option.short ? `-${option.short}, ` : ''
  if (option.type === 'bool') {
    const on = new Option(`${short}--${option.name}`, option.help).default(option.default)
    return option.default === true ? [on, new Option(`--no-${option.name}`, option.help)] : [on]
  }
  const built = new Option(`${short}--${option.name} <${option.value}>`, option.help)
  if (option.repeat) built.argParser<unknown[]>((text, before) => [...before ?? [], judgeNamed(option, text)])
  else built.argParser(text => judgeNamed(option, text))
  if (option.default !== undefined) built.default(option.default)
  if (option.required) built.makeOptionMandatory()
  return [built]
}

/** Judged; the message says which argument it is about. */
function judgeNamed(parameter: Parameter, text: string): string | number {
  try {
    return judge(parameter, text)
  } catch (error) {
    if (!(error instanceof NbdeltaError) || error.message.startsWith(label(parameter))) throw error
    throw new NbdeltaError(error.code, `${label(parameter)}: ${error.message}`, { hint: error.hint })
  }
}

function invocation(
  command: Command, values: unknown[], options: Record<string, unknown>, globals: Record<string, unknown>,
): Invocation {
  const args: Record<string, unknown> = {}
  for (const [index, parameter] of command.positional.entries()) {
    if (values[index] !== undefined) args[wireName(parameter.name)] = values[index]
  }
  for (const option of command.options) {
    const value = options[wireName(option.name)]
    if (value !== undefined) args[wireName(option.name)] = value
  }
  const { store, control, json } = globals as { store?: string, control?: string, json: boolean }
  return { kind: 'command', command, args, globals: { store, control, json } }
}

/** Commander's words without its prefix; the hint is the page of the command that was meant. */
function usageError(error: CommanderError, argv: readonly string[]): NbdeltaError {
  // Global options may stand before the command.
  const words = argv.filter((word, index) => !word.startsWith('-') && !/^--(store|control)$/.test(argv[index - 1] ?? ''))
  const meant = COMMANDS.find(command => commandName(command) === words.slice(0, command.verb ? 2 : 1).join(' '))
  const page = meant ? `nbdelta ${commandName(meant)} --help`
    : words[0] !== undefined && words[0] in NOUNS ? `nbdelta ${words[0]} --help` : 'nbdelta --help'
  const message = error.code === 'commander.help'
    ? (words.length > 0 ? `'${words.join(' ')}' needs a verb` : 'a command is needed')
    : error.message.replace(/^error: /, '').replace(/\n/, ' ').replace(/^missing required argument '(.*)'$/, '$1 is missing')
      .replace(/^required option '(--\S+).*' not specified$/, '$1 is missing')
  return new NbdeltaError('bad-argument', message, { hint: `see: ${page}` })
}
