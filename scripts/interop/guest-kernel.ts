/**
 * A Debian kernel for the guest: downloaded with the machine's own apt, unpacked, kept in .cache/kernel-SUITE.
 *
 * The machine's own release is the default. Another one is fetched from the mirror the machine is configured for, with
 * package lists of its own under .cache, so that the system's apt is left as it is. Debian's "cloud" kernel, because
 * it is a tenth of the size and has virtio and nbd.
 */
import { existsSync } from 'node:fs'
import { mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { $, CACHE } from './tools.js'

const PACKAGE = 'linux-image-cloud-amd64'
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
const DOWNLOAD_MS = 600_000

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

async function ownSuite(): Promise<string> {
  const codename = /^VERSION_CODENAME=(\w+)/m.exec(await readFile('/etc/os-release', 'utf8'))?.[1]
  if (!codename) throw new Error('/etc/os-release names no release')
  return codename
}

async function download(suite: string, tree: string): Promise<void> {
  const apt = await aptOptions(suite)
  const shell = $({ timeout: DOWNLOAD_MS })
  const name = /Depends: (linux-image-\S+)/.exec((await shell`apt-cache ${apt} depends ${PACKAGE}`).stdout)?.[1]
  if (!name) throw new Error(`apt knows no ${PACKAGE} in ${suite}`)
  const fresh = `${tree}.new`
  await rm(fresh, { recursive: true, force: true })
  await mkdir(fresh, { recursive: true })
  await shell({ cwd: fresh })`apt-get ${apt} -qq download ${name} 2>&1 && dpkg-deb --fsys-tarfile ${name}_*.deb | tar -x && rm ${name}_*.deb`
  if (existsSync(join(fresh, 'usr/lib/modules'))) { // newer releases have /lib within /usr
    await mkdir(join(fresh, 'lib'), { recursive: true })
    await rename(join(fresh, 'usr/lib/modules'), join(fresh, 'lib/modules'))
  }
  await shell`depmod -b ${fresh} ${(await readdir(join(fresh, 'lib/modules')))[0]!}`
  await rename(fresh, tree)
}

/** None if the system's own package lists know the kernel already; else private lists, updated. */
async function aptOptions(suite: string): Promise<string[]> {
  if (suite === await ownSuite() && (await $({ nothrow: true })`apt-cache -q show ${PACKAGE}`).exitCode === 0) return []
  const home = join(CACHE, `apt-${suite}`)
  await mkdir(join(home, 'lists/partial'), { recursive: true })
  await mkdir(join(home, 'cache/archives/partial'), { recursive: true })
  await writeFile(join(home, 'sources.list'), `deb [signed-by=${KEYRING}] ${await ownMirror()} ${suite} main\n`)
  const options = {
    'Dir::Etc::sourcelist': join(home, 'sources.list'), 'Dir::Etc::sourceparts': '/dev/null', 'Dir::State::lists': join(home, 'lists'),
    'Dir::Cache': join(home, 'cache'), 'APT::Sandbox::User': 'root',
  }
  const flags = Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  await $({ timeout: DOWNLOAD_MS })`apt-get ${flags} -qq update`
  return flags
}

/** The archive this machine takes its own release from. */
async function ownMirror(): Promise<string> {
  const { stdout } = await $`apt-get indextargets --format ${'$(REPO_URI) $(CODENAME) $(COMPONENT)'}`
  const own = await ownSuite()
  const row = stdout.split('\n').map(line => line.split(' ')).find(([, codename, component]) => codename === own && component === 'main')
  if (!row) throw new Error(`apt is configured for no mirror of ${own}`)
  return row[0]!
}
