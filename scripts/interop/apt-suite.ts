/**
 * Debian packages of another release, without touching the system's own apt: package lists and downloads live under
 * .cache/apt-SUITE, the archive is the one this machine is configured for. Needs no root.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { $, CACHE } from './tools.js'

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
const DOWNLOAD_MS = 600_000
/** For anything that downloads. */
export const apt = $({ timeout: DOWNLOAD_MS })

/** The release this machine runs: "bookworm". */
export async function ownSuite(): Promise<string> {
  const codename = /^VERSION_CODENAME=(\w+)/m.exec(await readFile('/etc/os-release', 'utf8'))?.[1]
  if (!codename) throw new Error('/etc/os-release names no release')
  return codename
}

/** Options that make apt-get and apt-cache see only `suite`, with no package installed; its lists are brought up to date. */
export async function aptOptions(suite: string): Promise<string[]> {
  const home = join(CACHE, `apt-${suite}`)
  await mkdir(join(home, 'lists/partial'), { recursive: true })
  await mkdir(join(home, 'cache/archives/partial'), { recursive: true })
  await writeFile(join(home, 'sources.list'), `deb [signed-by=${KEYRING}] ${await ownMirror()} ${suite} main\n`)
  await writeFile(join(home, 'status'), '')
  const options = {
    'Dir::Etc::sourcelist': join(home, 'sources.list'), 'Dir::Etc::sourceparts': '/dev/null', 'Dir::State::lists': join(home, 'lists'),
    'Dir::State::status': join(home, 'status'), 'Dir::Cache': join(home, 'cache'), 'APT::Sandbox::User': 'root',
    'APT::Install-Recommends': 'false', 'Debug::NoLocking': '1',
  }
  const flags = Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  await apt`apt-get ${flags} -qq update`
  return flags
}

/** The archive this machine takes its own release from. */
async function ownMirror(): Promise<string> {
  const { stdout } = await $`apt-get indextargets --format ${'$(REPO_URI) $(CODENAME) $(COMPONENT)'}`
  const own = await ownSuite()
  const row = stdout.split('\n').map(line => line.split(' ')).find(([, codename, component]) => codename === own && component === 'main')
  if (!row) throw new Error(`apt is configured for no archive of ${own}`)
  return row[0]!
}
