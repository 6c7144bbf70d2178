/**
 * Recorder: a proxy that writes down what a real client sends. This is how the files in test/nbd/recorded were made:
 *
 *   node dist/test/nbd/support/recorder.js serve /tmp/r.sock out.json      then, in another shell, for instance
 *   nbdinfo 'nbd+unix:///disk?socket=/tmp/r.sock'; kill -INT the recorder
 *
 * It serves the exports of record-replay.ts itself and forwards every connection to it. out.json gets one entry per
 * connection: the client's bytes as hex, in order, without a word about time.
 */
import { writeFileSync } from 'node:fs'
import { connect, createServer as createNetServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { createServer } from '../../../src/nbd/server.js'
import { recordingExports } from './record-replay.js'

async function record(path: string, out: string): Promise<void> {
  const inner = `${path}.inner`
  const server = await createServer({ exports: recordingExports(), listen: [{ path: inner }] })
  const connections: Buffer[][] = []
  const proxy = createNetServer({ allowHalfOpen: true }, client => {
    const bytes: Buffer[] = []
    connections.push(bytes)
    const upstream = connect({ path: inner, allowHalfOpen: true })
    client.on('data', chunk => bytes.push(chunk))
    client.pipe(upstream).pipe(client)
    client.on('error', () => upstream.destroy())
    upstream.on('error', () => client.destroy())
  })
  proxy.listen(path)
  process.once('SIGINT', () => {
    writeFileSync(out, JSON.stringify(connections.map(chunks => Buffer.concat(chunks).toString('hex')), undefined, 1))
    proxy.close()
    void server.close({ deadlineMs: 500 }).then(() => process.exit(0))
  })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await record(process.argv[3], process.argv[4])
