/** Writes docs/cli.md anew (`make docs`); a test fails while the committed page differs. */
import { writeFileSync } from 'node:fs'
import { cliDocs } from './cli-docs.js'

writeFileSync(new URL('../../docs/cli.md', import.meta.url), cliDocs())
