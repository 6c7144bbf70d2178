/**
 * The `nbdelta` command in a thread that stays: the same code as the command's, from arguments to exit code, without the start of a process.
 *
 * Takes `string[]` messages, one at a time, and answers `{ exit, stdout, stderr }`. It cannot serve.
 */
import { parentPort } from 'node:worker_threads'
import { runCli } from '../../src/cli/cli.js'
import { runLocal } from '../../src/local-commands.js'

let [stdout, stderr] = ['', '']
process.stdout.write = ((chunk: string | Uint8Array) => { stdout += String(chunk); return true }) as typeof process.stdout.write
process.stderr.write = ((chunk: string | Uint8Array) => { stderr += String(chunk); return true }) as typeof process.stderr.write

parentPort!.on('message', async (words: string[]) => {
  stdout = stderr = ''
  const hooks = { version: '0', serve: () => Promise.resolve(1), local: runLocal }
  const exit = await runCli(words, hooks)
  parentPort!.postMessage({ exit, stdout, stderr })
})
