// Every row of the command table: help, examples that parse, completion, validation, documentation.
import { readFileSync } from 'node:fs'
import t from 'tap'
import { cliDocs } from '../../scripts/cli-docs.js'
import { COMPLETION_SCRIPTS, complete } from '../../src/cli/completion.js'
import { commandHelp, nounHelp, optionTerm, topHelp } from '../../src/cli/help.js'
import { parseArguments } from '../../src/cli/program.js'
import { COMMANDS, EXIT, EXIT_MEANING, GLOBAL_OPTIONS, NOUNS, commandName, methodName } from '../../src/control/commands.js'
import { wireName } from '../../src/control/options.js'
import { isMethod, validate } from '../../src/control/validate.js'

/** Words of an example as a shell would cut them. */
function words(example: string): string[] {
  return [...example.matchAll(/"([^"]*)"|(\S+)/g)].map(match => match[1] ?? match[2]!)
}
const nothing = async (): Promise<never[]> => []

for (const command of COMMANDS) {
  t.test(commandName(command), async t => {
    const help = commandHelp(command)
    for (const section of ['NAME', 'SYNOPSIS', 'DESCRIPTION', 'EXIT CODES',
      'EXAMPLES']) t.match(help, new RegExp(`^${section}$`, 'm'), section)
    for (const option of [...command.options, ...GLOBAL_OPTIONS]) t.ok(help.includes(optionTerm(option)),
      `help tells of ${option.name}`)
    for (const name of command.exits) t.ok(help.includes(`\n    ${EXIT[name]} `), `help tells of exit code ${name}`)
    for (const name of Object.keys(command.result?.fields ?? {})) t.ok(help.includes(name), `help tells of ${name}`)
    t.ok(help.split('\n').every(line => line.length <= 80), 'it fits 80 columns')
    t.ok(topHelp().includes(commandName(command)), 'nbdelta --help mentions it')
    t.ok(command.exits.includes('ok') && command.exits.includes('usage'))
    t.equal(new Set(command.exits).size, command.exits.length, 'no exit code twice')
    if (command.destructive) t.ok(command.options.some(option => option.name === 'dry-run'), 'what destroys has --dry-run')
    if (command.longRunning) t.ok(command.options.some(option => option.name === 'wait'), 'what takes long has --wait')
    if (command.serialised) t.match(command.positional[0]?.value, /^(NAME|VOLUME|GROUP)$/, 'it is serialised by what it is about')

    t.ok(command.examples.length > 0)
    for (const example of command.examples) {
      const parsed = parseArguments(words(example))
      if (parsed.kind !== 'command') { t.fail(example); continue }
      t.equal(parsed.command, command, example)
      if (!command.remote) continue
      const local = command.options.filter(option => option.local).map(option => wireName(option.name))
      const sent = Object.fromEntries(Object.entries(parsed.args).filter(([name]) => !local.includes(name)))
      t.same(validate(methodName(command), sent), sent, 'the server takes what the command line judged, and adds nothing')
    }
    t.equal(isMethod(methodName(command)), command.remote)

    const path = command.verb ? [command.noun, command.verb] : [command.noun]
    const offered = await complete([...path.slice(0, -1), ''], nothing)
    t.ok(offered.candidates.some(candidate => candidate.value === path.at(-1)), 'completion offers it')
    const options = (await complete([...path, '--'], nothing)).candidates.map(candidate => candidate.value)
    for (const option of command.options) t.ok(options.some(
      value => value === `--${option.name}` || value === `--no-${option.name}`), `completion offers ${option.name}`)
  })
}

t.test('nouns and meanings are complete', async t => {
  t.same(Object.keys(NOUNS).sort(), [...new Set(COMMANDS.filter(command => command.verb).map(command => command.noun))].sort())
  for (const noun of Object.keys(NOUNS)) t.match(nounHelp(noun), /VERB --help/)
  t.same(Object.keys(EXIT_MEANING).sort(), Object.keys(EXIT).sort())
  t.equal(new Set(COMMANDS.map(commandName)).size, COMMANDS.length)
  t.same(Object.keys(COMPLETION_SCRIPTS), ['bash', 'zsh', 'fish'])
})

t.test('docs/cli.md is what `make docs` writes', async t => {
  t.equal(readFileSync(new URL('../../../docs/cli.md', import.meta.url), 'utf8'), cliDocs())
})
