/**
 * A Debian kernel for the guest: downloaded with the machine's own apt, unpacked, kept in .cache/kernel-SUITE.
 * Debian's "cloud" kernel, because it is a tenth of the size and has virtio and nbd. The machine's own release is the
 * default.
 */
import { existsSync } from 'node:fs'
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { apt, aptOptions, ownSuite } from './apt-suite.js'
import { $, CACHE } from './tools.js'

const PACKAGE = 'linux-image-cloud-amd64'

export interface GuestKernel {
  /** As `uname -r` says. */
  readonly release: string
  readonly image: string
  /** A tree with lib/modules/RELEASE. */
  readonly tree: string
}

/** @param suite a Debian release name; undefined = the machine's own. Rejects with apt's words if it cannot be had. */
export async function guestKernel(suite?: string): Promise<GuestKernel> {
  const wanted = suite ?? await ownSuite()
  const tree = join(CACHE, `kernel-${wanted}`)
  if (!existsSync(tree)) await download(wanted, tree)
  const release = (await readdir(join(tree, 'lib/modules')))[0]!
  return { release, image: join(tree, 'boot', `vmlinuz-${release}`), tree }
}

async function download(suite: string, tree: string): Promise<void> {
  // The system's own lists, if they know it: that saves an update.
  const known = suite === await ownSuite() && (await $({ nothrow: true })`apt-cache -q show ${PACKAGE}`).exitCode === 0
  const options = known ? [] : await aptOptions(suite)
  const name = /Depends: (linux-image-\S+)/.exec((await apt`apt-cache ${options} depends ${PACKAGE}`).stdout)?.[1]
  if (!name) throw new Error(`apt knows no ${PACKAGE} in ${suite}`)
  const fresh = `${tree}.new`
  await rm(fresh, { recursive: true, force: true })
  await mkdir(fresh, { recursive: true })
  await apt({ cwd: fresh })`apt-get ${options} -qq download ${name} 2>&1 && dpkg-deb --fsys-tarfile ${name}_*.deb | tar -x && rm ${name}_*.deb`
  if (existsSync(join(fresh, 'usr/lib/modules'))) { // newer releases have /lib within /usr
    await mkdir(join(fresh, 'lib'), { recursive: true })
    await rename(join(fresh, 'usr/lib/modules'), join(fresh, 'lib/modules'))
  }
  await $`depmod -b ${fresh} ${(await readdir(join(fresh, 'lib/modules')))[0]!}`
  await rename(fresh, tree)
}
