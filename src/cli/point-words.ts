/**
 * `VOLUME@POINT` as one word: cut in two before the command line is parsed, where a command takes the one behind the other.
 * Names cannot hold an @ themselves, so nothing is lost. Pure.
 */
import { COMMANDS, GLOBAL_OPTIONS } from '../control/commands.js'
import type { Command } from '../control/commands.js'
import type { Parameter } from '../control/options.js'

/** Finds the option a word stands for, and whether its value is the next word. */
function takesNextWord(word: string, options: readonly Parameter[]): boolean {
  const option = options.find(one => word === `--${one.name}` || (one.short !== undefined && word === `-${one.short}`))
  return option !== undefined && option.type !== 'bool'
}

/** A point as second argument, the volume as first. */
function takesPoint({ positional: [first, second] }: Command): boolean {
  return first?.name === 'volume' && second?.type === 'name' && first.required === true
}

export function splitPoints(argv: readonly string[]): string[] {
  const out: string[] = []
  const plain: string[] = []
  let command: Command | undefined
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at]!
    if (word === '--') return [...out, ...argv.slice(at)]
    out.push(word)
    if (word.startsWith('-')) {
      if (takesNextWord(word, [...GLOBAL_OPTIONS, ...command?.options ?? []]) && at + 1 < argv.length) out.push(argv[++at]!)
      continue
    }
    plain.push(word)
    if (plain.length === 2) command = COMMANDS.find(({ noun, verb }) => noun === plain[0] && verb === word)
    const cut = /^([^@]+)@([^@]+)$/.exec(word)
    if (plain.length === 3 && command && takesPoint(command) && cut) out.splice(-1, 1, cut[1]!, cut[2]!)
  }
  return out
}
