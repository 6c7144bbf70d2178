// `make run`: serves ./data, with one 1 GiB volume `disk` if it is new, on a unix socket and on 127.0.0.1:10809.
// More arguments are handed on: node scripts/run.mjs --log-level debug.
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))))
process.argv = [process.execPath, 'nbdelta', 'serve', '--store', './data', '--create-volume', 'disk=1GiB',
  '--nbd', 'unix:./data/nbd.sock', '--nbd', 'tcp:127.0.0.1:10809', ...process.argv.slice(2)]
// In this very process, so that Ctrl-C and the exit code are the server's own.
await import('../bin/nbdelta.cjs')
