/**
 * zx by `require`: Node from 22 on does not find the names of its exports when tap watches what is loaded, and `$` would be undefined.
 */
import { createRequire } from 'node:module'

export const { $ } = createRequire(import.meta.url)('zx') as typeof import('zx')
