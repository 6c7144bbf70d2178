/**
 * The style guide as pure functions over source text: each returns what is wrong, in words.
 * `tidy.test.ts` runs them over the tree; `rules.test.ts` proves that each can fail.
 */
import { dirname, join } from 'node:path'
import ts from 'typescript'

export interface Source { readonly path: string, readonly text: string }

/** Which floors a floor may import (DESIGN section 6). A floor always may import itself. */
export const FLOORS: Readonly<Record<string, readonly string[]>> = {
  'native-free': [],
  'src/device': ['native-free'],
  'src/store': ['native-free', 'src/device'],
  'src/volume': ['native-free', 'src/device', 'src/store'],
  'src/nbd': ['native-free', 'src/device'],
  'src/replication': ['native-free', 'src/device', 'src/volume'],
  'src/link': ['native-free', 'src/device'],
  'src/control': ['native-free', 'src/device', 'src/volume'],
  'src/cli': ['src/control'],
}
/** Of control, the command line may see only the table and the client. */
export const CLI_MAY_IMPORT = ['src/control/commands', 'src/control/client', 'src/control/options']
export const FILE_LINES_MAX = 500
export const FUNCTION_LINES_MAX = 60
/** Of product code; a row of a test's table may be longer. */
export const LINE_COLUMNS_MAX = 130
export const TEST_LINE_COLUMNS_MAX = 190

const BANNED: readonly { pattern: RegExp, where: RegExp, except?: RegExp, why: string }[] = [
  { pattern: /\b(TODO|FIXME|XXX)\b/, where: /./, except: /^test\/tidy\//, why: 'finish it or file it, do not leave a note' },
  { pattern: /\.only\(/, where: /^test\//, except: /^test\/tidy\//, why: 'a focused test hides all others' },
  { pattern: /\bMath\.random\(/, where: /^(src|native-free)\//, why: 'randomness comes in by argument' },
  { pattern: /\bconsole\.(log|error|warn|info)\(/, where: /^(src|native-free)\//, except: /^src\/(cli\/|main\.ts|daemon\.ts)/, why: 'use the logger' },
  { pattern: /\bprocess\.exit\(/, where: /^(src|native-free)\//, except: /^src\/(main|daemon|daemon-log)\.ts/, why: 'only the roof ends the process' },
  { pattern: /\b(Date\.now|performance\.now|process\.hrtime|setTimeout|setInterval)\(/, where: /^native-free\//, why: 'the ground floor has no clock' },
  { pattern: /from '(node:fs|node:net|pino)/, where: /^native-free\//, why: 'the ground floor does no I/O' },
  { pattern: /^(?!\s*(\*|\/\/|\/\*)).*(: any\b|\bas any\b)/, where: /^(src|native-free)\//, why: 'give it a type' },
  { pattern: /@ts-(ignore|nocheck)/, where: /./, except: /^test\/tidy\//, why: 'fix the type' },
]

function floorOf(path: string): string | undefined {
  return Object.keys(FLOORS).find(floor => path.startsWith(`${floor}/`))
}

/** Relative imports of a file, as paths from the root without extension; `dynamic` ones too. */
export function importsOf({ path, text }: Source): string[] {
  const found: string[] = []
  for (const match of text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)) {
    found.push(join(dirname(path), match[1]!).replace(/\.(js|ts|mjs)$/, ''))
  }
  return found
}

/** Imports point down only. */
export function floorViolations(source: Source): string[] {
  const floor = floorOf(source.path)
  if (!floor) return []
  const wrong: string[] = []
  for (const target of importsOf(source)) {
    const targetFloor = floorOf(`${target}.ts`)
    if (targetFloor === floor) continue
    if (!targetFloor || !FLOORS[floor]!.includes(targetFloor)) wrong.push(`${source.path}: ${floor} may not import ${target}`)
    else if (floor === 'src/cli' && !CLI_MAY_IMPORT.includes(target)) wrong.push(`${source.path}: the command line may not import ${target}`)
  }
  return wrong
}

/** The roof stands on the public API, and on control and the command line, which it joins to that. */
export function roofViolations(source: Source): string[] {
  if (!/^src\/[^/]+\.ts$/.test(source.path) || source.path === 'src/index.ts') return []
  return importsOf(source).filter(target => !/^src\/([^/]+|control\/[^/]+|cli\/cli)$/.test(target))
    .map(target => `${source.path}: the roof imports ${target} through src/index only`)
}

/** Packages a floor may use: the ground floor only the checksum's. */
export function packageViolations({ path, text }: Source): string[] {
  if (!path.startsWith('native-free/')) return []
  return [...text.matchAll(/from '([^.'][^']*)'/g)]
    .filter(match => !(match[1] === 'buffer-crc32' && path === 'native-free/checksum.ts') && match[1] !== 'node:zlib')
    .map(match => `${path}: the ground floor may not import ${match[1]}`)
}

export function lengthViolations({ path, text }: Source): string[] {
  const lines = text.split('\n')
  const product = /^(src|native-free)\//.test(path)
  const columns = product ? LINE_COLUMNS_MAX : TEST_LINE_COLUMNS_MAX
  const wrong = lines.flatMap((line, index) => line.length > columns ? [`${path}:${index + 1}: ${line.length} columns`] : [])
  if (lines.length > FILE_LINES_MAX && product) wrong.push(`${path}: ${lines.length} lines, probably two rooms`)
  return wrong
}

export function functionViolations({ path, text }: Source): string[] {
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)
  const wrong: string[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node) && 'body' in node && node.body) {
      const start = file.getLineAndCharacterOfPosition(node.getStart()).line
      const length = file.getLineAndCharacterOfPosition(node.getEnd()).line - start + 1
      if (length > FUNCTION_LINES_MAX) wrong.push(`${path}:${start + 1}: a function of ${length} lines`)
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return wrong
}

export function bannedViolations({ path, text }: Source): string[] {
  return BANNED.filter(rule => rule.where.test(path) && !rule.except?.test(path)).flatMap(rule =>
    text.split('\n').flatMap((line, index) => rule.pattern.test(line) ? [`${path}:${index + 1}: ${rule.pattern.source}: ${rule.why}`] : []))
}

/** Every file says first what it is for. */
export function headerViolations({ path, text }: Source): string[] {
  if (path.endsWith('.d.ts')) return []
  const body = text.replace(/^#!.*\n/, '')
  return /^\s*(\/\*\*|\/\/)/.test(body) ? [] : [`${path}: no header comment`]
}

/**
 * Names exported by `sources` that nobody in `readers` ever mentions outside the file that declares them. A type may
 * instead be part of another export of its own file: who calls that one gets it without naming it.
 */
export function unusedExports(sources: readonly Source[], readers: readonly Source[]): string[] {
  return sources.flatMap(source => [...source.text.matchAll(/^export (?:async )?(const|let|function\*?|class|interface|type|enum) (\w+)/gm)]
    .filter(([, kind, name]) => {
      const word = new RegExp(`\\b${name}\\b`, 'g')
      if (/interface|type/.test(kind!) && source.text.match(word)!.length > 1) return false
      return !readers.some(reader => reader.path !== source.path && reader.text.match(word))
    })
    .map(([, , name]) => `${source.path}: ${name} is exported and nobody uses it`))
}

/** Files that no entry point reaches. */
export function unreachable(sources: readonly Source[], entries: readonly string[]): string[] {
  const byPath = new Map(sources.map(source => [source.path.replace(/\.ts$/, ''), source]))
  const seen = new Set<string>()
  const queue = entries.map(entry => entry.replace(/\.ts$/, ''))
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    const source = byPath.get(path)
    if (!source || seen.has(path)) continue
    seen.add(path)
    queue.push(...importsOf(source))
  }
  return [...byPath.keys()].filter(path => !seen.has(path)).map(path => `${path}.ts: no entry point reaches it`)
}
