/**
 * Shell completion. The shells get a few lines of glue that ask `nbdelta __complete WORD...`; what is offered is decided
 * here, off the command table, once for all shells.
 *
 * The last word is the one being typed (perhaps empty). Pure, but for the names of volumes, clients and jobs, which come by a
 * callback.
 */
import { COMMANDS, GLOBAL_OPTIONS, NOUNS } from '../control/commands.js'
import type { Command } from '../control/commands.js'
import type { Parameter } from '../control/options.js'

export interface Candidate { readonly value: string, readonly help: string }
/** `files`, `directories`: the shell completes paths itself. */
export interface Completion { readonly paths: 'files' | 'directories' | 'none', readonly candidates: readonly Candidate[] }

type Where = { store: string | undefined, control: string | undefined }
/** Asks a running server for names; answers nothing when there is none. Points are those of `volume`. */
export type Lookup = (
  kind: 'volume' | 'point' | 'group' | 'mirror' | 'client' | 'job', where: Where, volume?: string,
) => Promise<Candidate[]>

interface Scan {
  readonly plain: string[]
  readonly globals: Where
  readonly used: Set<string>
  /** The option whose value is being typed. */
  readonly open: Parameter | undefined
}

function optionNamed(word: string): Parameter | undefined {
  const all = [...GLOBAL_OPTIONS, ...COMMANDS.flatMap(command => command.options)]
  return all.find(option => word === `--${option.name}` || (option.short !== undefined && word === `-${option.short}`))
}

function scan(words: readonly string[]): Scan {
  const globals: Where = { store: undefined, control: undefined }
  const plain: string[] = []
  const used = new Set<string>()
  let open: Parameter | undefined
  for (const word of words) {
    if (open) {
      if (open.name === 'store' || open.name === 'control') globals[open.name] = word
      open = undefined
    } else if (word.startsWith('-')) {
      const option = optionNamed(word)
      used.add(word)
      if (option && option.type !== 'bool') open = option
    } else plain.push(word)
  }
  return { plain, globals, used, open }
}

async function valuesOf(parameter: Parameter, globals: Where, volume: string | undefined, lookup: Lookup): Promise<Completion> {
  if (parameter.type === 'enum') return { paths: 'none', candidates: parameter.choices!.map(value => ({ value, help: '' })) }
  switch (parameter.complete) {
    case 'file': return { paths: 'files', candidates: [] }
    case 'directory': return { paths: 'directories', candidates: [] }
    case undefined: return { paths: 'none', candidates: [] }
    case 'point': return { paths: 'none', candidates: volume === undefined ? [] : await lookup('point', globals, volume) }
    default: return { paths: 'none', candidates: await lookup(parameter.complete, globals) }
  }
}

function optionCandidates(command: Command | undefined, used: ReadonlySet<string>): Candidate[] {
  return [...command?.options ?? [], ...GLOBAL_OPTIONS].flatMap(option => {
    const value = option.type === 'bool' && option.default === true ? `--no-${option.name}` : `--${option.name}`
    return used.has(value) && !option.repeat ? [] : [{ value, help: option.help }]
  })
}

/** What can stand in the place of the last word. */
export async function complete(words: readonly string[], lookup: Lookup): Promise<Completion> {
  const current = words.at(-1) ?? ''
  const { plain, globals, used, open } = scan(words.slice(0, -1))
  const fitting = ({ paths, candidates }: Completion): Completion =>
    ({ paths, candidates: candidates.filter(one => one.value.startsWith(current)) })
  const [noun, verb, volume] = plain
  if (open) return fitting(await valuesOf(open, globals, volume, lookup))
  const command = COMMANDS.find(row => row.noun === noun && (row.verb === '' || row.verb === verb))
  if (current.startsWith('-')) return fitting({ paths: 'none', candidates: optionCandidates(command, used) })
  if (noun === undefined) {
    const single = COMMANDS.filter(row => row.verb === '').map(row => ({ value: row.noun, help: row.summary }))
    return fitting({ paths: 'none', candidates: [...Object.entries(NOUNS).map(([value, help]) => ({ value, help })), ...single] })
  }
  if (!command) {
    const verbs = plain.length === 1 ? COMMANDS.filter(row => row.noun === noun) : []
    return fitting({ paths: 'none', candidates: verbs.map(row => ({ value: row.verb, help: row.summary })) })
  }
  const given = plain.length - (command.verb === '' ? 1 : 2)
  const last = command.positional.at(-1)
  const next = command.positional[given] ?? (last?.repeat ? last : undefined)
  return next ? fitting(await valuesOf(next, globals, volume, lookup))
    : fitting({ paths: 'none', candidates: optionCandidates(command, used) })
}

/** First line: how to complete paths; then `value TAB help`, one a line. */
export function encodeCompletion({ paths, candidates }: Completion): string {
  return [paths, ...candidates.map(({ value, help }) => `${value}\t${help}`)].join('\n')
}

const BASH = `# bash completion of nbdelta: source <(nbdelta completion bash)
_nbdelta() {
  local current="\${COMP_WORDS[COMP_CWORD]}" paths value help IFS=$'\\n'
  COMPREPLY=()
  {
    read -r paths
    while IFS=$'\\t' read -r value help; do COMPREPLY+=("$(printf '%q' "$value")"); done
  } < <("\${COMP_WORDS[0]}" __complete "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
  case "$paths" in
    files) compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")) ;;
    directories) compopt -o filenames; COMPREPLY=($(compgen -d -- "$current")) ;;
  esac
}
complete -F _nbdelta nbdelta
`

const ZSH = `#compdef nbdelta
# zsh completion of nbdelta: source <(nbdelta completion zsh)
_nbdelta() {
  local paths value help
  local -a values lines
  lines=("\${(@f)$(\${words[1]} __complete "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  paths=\${lines[1]}
  case $paths in
    files) _files; return ;;
    directories) _files -/; return ;;
  esac
  for value in "\${(@)lines[2,-1]}"; do
    help=\${value#*$'\\t'}
    value=\${value%%$'\\t'*}
    values+=("\${value//:/\\\\:}:$help")
  done
  _describe nbdelta values
}
compdef _nbdelta nbdelta
`

const FISH = `# fish completion of nbdelta: nbdelta completion fish > ~/.config/fish/completions/nbdelta.fish
function __nbdelta_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l lines ($words[1] __complete $words[2..-1] 2>/dev/null)
  switch "$lines[1]"
    case files
      __fish_complete_path (commandline -ct)
    case directories
      __fish_complete_directories (commandline -ct)
    case '*'
      printf '%s\\n' $lines[2..-1]
  end
end
complete -c nbdelta -f -a '(__nbdelta_complete)'
`

export const COMPLETION_SCRIPTS: Readonly<Record<string, string>> = { bash: BASH, zsh: ZSH, fish: FISH }
