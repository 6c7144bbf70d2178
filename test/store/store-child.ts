// A process that opens a store, says how that went, and keeps it until it is killed.
// Arguments: path [flock tool]
import { NbdeltaError } from '../../src/device/errors.js'
import { openStoreDirectory } from '../../src/store/store-directory.js'

const [path, flockTool] = process.argv.slice(2)
try {
  const store = await openStoreDirectory({ path, create: true, ...flockTool === undefined ? {} : { flockTool } })
  process.stdout.write(`open ${store.uuid}\n`)
  // Keeps the process alive, and the store reachable.
  setInterval(() => store.uuid, 1000)
} catch (error) {
  const { code, message } = error as NbdeltaError
  process.stdout.write(`refused ${code} ${message}\n`)
}
