/** docs/cli.md as text, out of the command table: the same words as `--help`, for reading in a browser. */
import { COMMANDS, EXIT, EXIT_MEANING, GLOBAL_OPTIONS, NOUNS, commandName } from '../src/control/commands.js'
import { argumentTerm, optionHelp, optionTerm, synopsis } from '../src/cli/help.js'
import type { Command } from '../src/control/commands.js'
import type { Parameter } from '../src/control/options.js'

const cell = (text: string): string => text.replace(/\|/g, '\\|')

function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  if (rows.length === 0) return []
  return [`| ${head.join(' | ')} |`, `|${head.map(() => ' --- ').join('|')}|`,
    ...rows.map(row => `| ${row.map(cell).join(' | ')} |`), '']
}

const optionRows = (options: readonly Parameter[]): string[][] =>
  options.map(option => [`\`${optionTerm(option)}\``, optionHelp(option)])

function page(command: Command): string[] {
  const fields = Object.entries(command.result?.fields ?? {})
  return [
    `## nbdelta ${commandName(command)}`, '', `${command.description}`, '',
    '```', synopsis(command), '```', '',
    ...table(['argument', 'meaning'], command.positional.map(parameter => [`\`${argumentTerm(parameter)}\``, parameter.help])),
    ...table(['option', 'meaning'], optionRows(command.options)),
    ...fields.length > 0 ? [`With \`--json\`: ${command.result!.many ? 'an array of objects' : 'an object'}`
      + `${command.longRunning && command.destructive ? '; with `--dry-run` one with `target`, `changed`, `dryRun` and `steps`'
        : ''}.`, ''] : [],
    ...table(['field', 'meaning'], fields.map(([name, field]) => [`\`${name}\``, field.help])),
    `Exit codes: ${command.exits.map(name => EXIT[name]).sort((a, b) => a - b).join(', ')}.`, '',
    '```sh', ...command.examples.map(example => `nbdelta ${example}`), '```', '',
  ]
}

export function cliDocs(): string {
  return [
    '# The nbdelta command line', '',
    '<!-- Made by `make docs` from src/control/commands.ts. Edit there. -->', '',
    '`nbdelta serve` runs a server; all other commands ask a running one over its control socket, a unix socket that only its '
      + 'owner may use. '
    + 'They find it by `--control PATH`, by `--store DIR` (then it is `DIR/control.sock`), or by the environment variable '
    + '`NBDELTA_STORE`.', '',
    'Results go to standard output, everything else to standard error. With `--json` standard output is exactly one JSON '
      + 'document, and errors '
    + '(`{"error":{"code","message","hint","exit"}}`) and progress (`{"progress":{...}}`, a job each second) are JSON lines '
    + 'on standard error. '
    + 'Sizes in JSON are bytes, times are ISO 8601 in UTC.', '',
    'Sizes are typed as bytes or with `k`, `M`, `G`, `T` or `KiB`, `MiB`, `GiB`, `TiB`; all are powers of 1024, fractions '
      + 'such as `1.5GiB` are fine. '
    + 'Decimal units (`MB`) are refused.', '',
    '| command | what it does |', '| --- | --- |',
    ...COMMANDS.map(command =>
      `| [${commandName(command)}](#nbdelta-${commandName(command).replace(/ /g, '-')}) | ${cell(command.summary)} |`), '',
    '## Nouns', '', ...table(['noun', 'meaning'], Object.entries(NOUNS).map(([noun, meaning]) => [noun, meaning])),
    '## Global options', '', 'They may stand before or behind the command.', '',
      ...table(['option', 'meaning'], optionRows(GLOBAL_OPTIONS)),
    '## Exit codes', '',
      ...table(['code', 'meaning'],
      Object.entries(EXIT).map(([name, code]) => [String(code), EXIT_MEANING[name as keyof typeof EXIT]])),
    ...COMMANDS.flatMap(page),
    '## The control socket', '',
    'JSON-RPC 2.0, one message per line, at most 64 KiB each; batches are refused, many requests may be in flight on one '
      + 'connection. '
    + 'A method is noun and verb joined by a point; parameters are the arguments and options in camel case, sizes as bytes or '
    + 'text:', '',
    '```sh',
    `echo '{"jsonrpc":"2.0","id":1,"method":"volume.create","params":{"name":"disk","size":"1GiB"}}' | nc -U -N `
      + `./data/control.sock`, '```', '',
    'An error is `{"code": -32000 - exit code, "message", "data": {"code", "exit", "hint"}}`. While an import or export is '
      + 'waited for, notifications '
    + '`progress` with `{"id", "job"}` come about five times a second; a `waiting` notification may come at any time and '
    + 'means nothing.', '',
  ].join('\n')
}
