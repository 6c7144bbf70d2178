// libnbd in strict mode: every command, every flag, structured and simple (strict.py), over both transports.
import { join } from 'node:path'
import t from 'tap'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, PYTHON, ROOT, lacking, seedOfRun } from '../../scripts/interop/tools.js'

t.test('nbdsh: libnbd in strict mode', { skip: lacking('nbdsh') }, async t => {
  const server = await InteropServer.start({ name: 'strict', size: '8GiB' })
  t.teardown(() => server.close())
  const seed = seedOfRun()
  for (const [transport, uri] of [['unix', server.uri('strict')], ['tcp', server.tcpUri('strict')]] as const) {
    t.test(transport, async t => {
      const { stdout, stderr, exitCode } = await $({ nothrow: true })`${PYTHON} ${join(ROOT, 'test/interop/strict.py')} ${uri} ${seed}`
      for (const line of stdout.split('\n')) {
        const row = /^(not )?ok - (.*)/.exec(line)
        if (row) t.notOk(row[1], row[2])
        else if (line) t.comment(line)
      }
      t.equal(exitCode, 0, `the client came to its end (seed ${seed})${stderr ? `: ${stderr.slice(-1500)}` : ''}`)
    })
  }
})
