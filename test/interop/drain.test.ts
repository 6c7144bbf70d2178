// S3: SIGTERM under load: every request in flight is answered, the server exits 0, and what it acknowledged is there.
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking, seedOfRun, seededRandom } from '../../scripts/interop/tools.js'
import { Load, audit } from './load.js'
import { StampedWindows } from './stamped-windows.js'
import { ESHUTDOWN, WireClient, WireError } from './wire-client.js'

const MIB = 2 ** 20
const CONNECTIONS = 4
const NAME = 'drained'
const WINDOWS = [{ offset: 0, length: 16 * MIB }, { offset: 640 * MIB, length: 16 * MIB }]
const ROUNDS = 5

t.setTimeout(300_000)

t.test('S3: SIGTERM drains', async t => {
  const seed = seedOfRun()
  const random = seededRandom(seed)
  const server = await InteropServer.start({ name: NAME, size: '1GiB' })
  t.teardown(() => server.close())
  const clients = (): Promise<WireClient[]> => Promise.all(Array.from({ length: CONNECTIONS }, () => WireClient.connect(server.socketPath, NAME)))
  t.comment(`seed ${seed}`)

  t.test('64 requests sent on each of 4 connections, then SIGTERM: 256 answers', async t => {
    for (let round = 0; round < ROUNDS; round++) {
      const connections = await clients()
      const requests = connections.flatMap((client, index) => Array.from({ length: 64 }, (_, number) => {
        const offset = 64 * MIB + (index * 64 + number) * 131072
        return number % 2 ? client.read(offset, 65536) : client.write(offset, Buffer.alloc(65536, round + 1))
      }))
      const settled = Promise.allSettled(requests)
      await sleep(random() * 10)
      const ended = server.terminate()
      const answers = { done: 0, shutdown: 0, unanswered: 0 }
      for (const result of await settled) {
        if (result.status === 'fulfilled') answers.done++
        else if (result.reason instanceof WireError && result.reason.errno === ESHUTDOWN) answers.shutdown++
        else answers.unanswered++
      }
      for (const client of connections) client.destroy()
      t.equal(answers.unanswered, 0, `round ${round}: ${answers.done} done, ${answers.shutdown} refused with ESHUTDOWN`)
      t.equal((await ended).code, 0)
      await server.serve()
    }
  })

  t.test('a load that goes on until it is told ESHUTDOWN loses no answer and no data', async t => {
    const model = new StampedWindows(WINDOWS)
    for (let round = 0; round < ROUNDS; round++) {
      const connections = await clients()
      const load = new Load({ model, clients: connections, depth: 16, grainBytes: 4096, random })
      const running = load.run()
      await sleep(200 + random() * 300)
      const ended = server.terminate()
      await running
      for (const client of connections) client.destroy()
      t.equal(load.failure, '')
      t.equal(load.counts.unanswered, 0, `round ${round}: ${load.acknowledged} acknowledged, ${load.counts.refused} refused`)
      t.equal((await ended).code, 0)
      await server.serve()
      t.equal(await audit(model, server.socketPath, NAME), '')
    }
  })

  t.test('nbdcopy is told, not cut off', { skip: lacking('nbdcopy', 'nbdkit') }, async t => {
    const copy = $({ nothrow: true })`nbdcopy -C 4 -- [ nbdkit random 1G ] ${server.uri(NAME)}`
    await sleep(300)
    t.equal((await server.terminate()).code, 0)
    const { stderr, exitCode } = await copy
    t.not(exitCode, 0, 'the copy could not be finished')
    const words = stderr.split('\n').filter(line => line.startsWith('nbdcopy:')).join('\n')
    t.match(words, /endpoint shutdown/)
    t.notMatch(words, /disconnected|reset by peer|broken pipe/i)
    await server.serve()
  })

  t.test('an idle server stops at once', async t => {
    const idle = await WireClient.connect(server.socketPath, NAME)
    const before = Date.now()
    t.equal((await server.terminate()).code, 0)
    t.ok(Date.now() - before < 5000, `${Date.now() - before} ms with an idle client attached`)
    idle.destroy()
    await server.serve()
  })
})
