/**
 * Entry of the `nbdelta` command: joins the command line and the daemon, which do not know each other.
 * The daemon is loaded only to serve; everything else stays quick to start.
 */
import { readFileSync } from 'node:fs'
import { runCli } from './cli/cli.js'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }

process.exitCode = await runCli(process.argv.slice(2), {
  version,
  serve: async options => {
    const { serve } = await import('./daemon.js')
    return serve({ ...options, version })
  },
  local: async (verb, args, control) => {
    const { runLocal } = await import('./local-commands.js')
    return runLocal(verb, args, control)
  },
})
