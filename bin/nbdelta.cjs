#!/usr/bin/env node
// Launcher. libuv reads the size of its thread pool when the first file operation starts the pool, and loading an ES module
// is one: so it is set here, in CommonJS, before anything else. 128 threads let 128 slow disk requests wait at once without
// holding up those of other volumes. Only the server needs them.
'use strict'
if (process.argv.includes('serve')) process.env.UV_THREADPOOL_SIZE ||= '128'
const main = require('node:path').join(__dirname, '../dist/src/main.js')
if (!require('node:fs').existsSync(main)) {
  process.stderr.write('nbdelta: not built yet\nhint: run `make build` in the source folder\n')
  process.exitCode = 1
} else {
  import(require('node:url').pathToFileURL(main).href).catch(error => {
    process.stderr.write(`nbdelta: cannot start: ${error.stack}\n`)
    process.exitCode = 1
  })
}
