/**
 * The interop tests with the clients of another Debian release: `node dist/scripts/interop/newer-clients.js [SUITE]`,
 * trixie by default. Its libnbd and qemu negotiate extended headers, which those of Debian 12 do not know.
 *
 * The packages and all their libraries are unpacked into .cache/clients-SUITE and run there through their own dynamic
 * loader: nothing is installed, no root is needed. Programs that are not among them are this machine's.
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { apt, aptOptions } from './apt-suite.js'
import { CACHE, ROOT } from './tools.js'

const PACKAGES = ['libnbd-bin', 'python3-libnbd', 'qemu-utils']
const PROGRAMS = ['nbdinfo', 'nbdcopy', 'nbdsh', 'qemu-img', 'qemu-io', 'python3']

/** Folder of wrappers for the programs of `suite`, which is downloaded if it is not there. */
async function clientsOf(suite: string): Promise<string> {
  const tree = join(CACHE, `clients-${suite}`)
  if (!existsSync(tree)) {
    const fresh = `${tree}.new`
    await rm(fresh, { recursive: true, force: true })
    await mkdir(join(fresh, 'wrappers'), { recursive: true })
    const options = await aptOptions(suite)
    await apt`apt-get ${options} -qq -y --download-only install ${PACKAGES}`
    const archives = join(CACHE, `apt-${suite}`, 'cache/archives')
    for (const name of await readdir(archives)) if (name.endsWith('.deb')) await apt`dpkg-deb -x ${join(archives, name)} ${fresh}`
    await rm(archives, { recursive: true })
    await rename(fresh, tree)
  }
  const libraries = join(tree, 'usr/lib', (await readdir(join(tree, 'usr/lib'))).find(name => name.endsWith('-linux-gnu'))!)
  const loader = join(libraries, (await readdir(libraries)).find(name => name.startsWith('ld-linux-'))!)
  const python = `PYTHONHOME='${join(tree, 'usr')}' PYTHONPATH='${join(tree, 'usr/lib/python3/dist-packages')}'`
  for (const program of PROGRAMS) {
    await writeFile(join(tree, 'wrappers', program),
      `#!/bin/sh\n${program === 'python3' ? python : ''} exec '${loader}' --library-path '${libraries}' '${join(tree, 'usr/bin', program)}' "$@"\n`, { mode: 0o755 })
  }
  return join(tree, 'wrappers')
}

const wrappers = await clientsOf(process.argv[2] ?? 'trixie')
const env = { ...process.env, PATH: `${wrappers}${delimiter}${process.env['PATH']}`, NBDELTA_PYTHON: join(wrappers, 'python3') }
const versions = await apt({ env })`nbdinfo --version && qemu-img --version | head -1`
console.log(versions.stdout.trim())
spawn(process.execPath, [join(ROOT, 'scripts/test.mjs'), 'interop'], { env, stdio: 'inherit' }).once('close', code => { process.exitCode = code ?? 1 })
