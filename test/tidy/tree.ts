/** The tracked and new source files of this checkout, for the tidy tests. */
import { readFileSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Source } from './rules.js'

/** dist/test/tidy -> the root of the checkout. */
export const ROOT = fileURLToPath(new URL('../../../', import.meta.url))

export function sourcesBelow(folder: string, extension: RegExp = /\.ts$/): Source[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile() && extension.test(entry.name))
    .map(entry => {
      const path = join(entry.parentPath ?? entry.path, entry.name)
      return { path: relative(ROOT, path), text: readFileSync(path, 'utf8') }
    })
}
