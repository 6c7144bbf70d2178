// A filesystem on a volume (nbdfuse, loop device, ext4): make, stress, trim, check, kill, attach afresh. `make interop-fs` does all three.
import t from 'tap'
import { cannotTry, tryFilesystem } from '../../scripts/interop/filesystems.js'
import { InteropServer } from '../../scripts/interop/server.js'
import { seedOfRun } from '../../scripts/interop/tools.js'

t.setTimeout(300_000)

t.test('ext4', { skip: await cannotTry('ext4') }, async t => {
  const server = await InteropServer.start({ name: 'disk', size: '512MiB' })
  t.teardown(() => server.close())
  await tryFilesystem('ext4', server, 'disk', async (title, step) => {
    try {
      await step()
      return t.pass(title)
    } catch (error) {
      return t.fail(`${title}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }, seedOfRun(), 500)
})
