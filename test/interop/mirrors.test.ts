// Mirrors between real servers: whatever the target, and whatever is done to the source while cycles run, both are alike in the end.
// A1, A2, A10, A17, C22, X7, X11, X14.
import { join } from 'node:path'
import t from 'tap'
import { connectControl } from '../../src/control/client.js'
import { InteropServer } from '../../scripts/interop/server.js'
import { $, lacking, seedOfRun, seededRandom, until } from '../../scripts/interop/tools.js'
import { type Peer, PEERS } from './mirror-peers.js'
import { WireClient } from './wire-client.js'

const MIB = 2 ** 20
const SIZE_MIB = 64
const GROWN_MIB = 80
const NAME = 'disk'
/** Of the source: fio's, that of the load, and what is written by hand, trimmed and restored. */
const FIO = { offset: 0, mib: 16 }
const LOAD = { offset: 16 * MIB, length: 16 * MIB }

interface Row {
  readonly state: string
  readonly inSync: boolean
  readonly lagBytes: number
  readonly cycle: number
  readonly lastDataBytes: number
  readonly lastZeroBytes: number
  readonly problem: string | null
  readonly unguarded: readonly string[]
}

t.setTimeout(600_000)
/** They mostly wait for the next second. */
t.jobs = 2

/** Rejects if a command fails or a pattern is not there. */
const io = (uri: string, ...commands: string[]) => $`qemu-io -f raw ${commands.flatMap(command => ['-c', command])} ${uri}`

/** Random writes on one connection, until it is stopped. */
class Scribble {
  written = 0
  #stopped = false
  readonly #running: Promise<void>

  constructor(client: WireClient, random: () => number) {
    this.#running = this.#run(client, random)
    this.#running.catch(() => undefined) // told by stop
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
  }

  async #run(client: WireClient, random: () => number): Promise<void> {
    while (!this.#stopped) {
      const length = 512 * (1 + Math.floor(random() * 64))
      const offset = LOAD.offset + 512 * Math.floor(random() * ((LOAD.length - length) / 512))
      await client.write(offset, Buffer.alloc(length, 1 + random() * 255))
      this.written++
    }
    await client.disconnect()
  }
}

/** One source and one target, from the first copy to verification. */
class Course {
  readonly source: InteropServer
  readonly peer: Peer
  readonly random: () => number

  constructor(source: InteropServer, peer: Peer, random: () => number) {
    this.source = source
    this.peer = peer
    this.random = random
  }

  get uri(): string { return this.source.uri(NAME) }

  async mirror(): Promise<Row> { return JSON.parse(await this.source.nbdelta('mirror', 'show', 'm', '--json')) as Row }

  /** Until so many more have been declared. */
  async cycles(count: number): Promise<void> {
    const control = await connectControl(join(this.source.store, 'control.sock'))
    const cycle = async (): Promise<number> => ((await control.call('mirror.show', { name: 'm' })) as Row).cycle
    try {
      const first = await cycle()
      await until(`${count} cycles`, 60_000, async () => await cycle() >= first + count)
    } finally {
      control.close()
    }
  }

  async fio(seed: number): Promise<string> {
    const job = ['--name=verify', '--ioengine=nbd', `--uri=${this.uri}`, '--iodepth=16', '--rw=randwrite', '--bsrange=512-64k', '--bs_unaligned',
      `--offset=${FIO.offset}`, `--size=${FIO.mib}m`, '--rate=,5m', '--fsync=50', `--randseed=${seed}`, '--verify=crc32c', '--verify_fatal=1',
      '--verify_state_save=0', '--do_verify=1']
    const { stdout, stderr } = await $({ nothrow: true, cwd: this.source.dir })`fio --output-format=json ${job}`
    const report = JSON.parse(stdout.slice(stdout.indexOf('{'))) as { jobs: { error: number }[] }
    return report.jobs[0]!.error === 0 ? '' : `fio: error ${report.jobs[0]!.error}: ${stderr.slice(-500)}`
  }

  /** Write, snapshot, write, restore, trim, grow: with the load and the cycles going on. Answers how much the load wrote. */
  async disturb(): Promise<number> {
    const { source, uri } = this
    await source.nbdelta('snapshot', 'create', NAME, 'good')
    const load = new Scribble(await WireClient.connect(source.socketPath, NAME), this.random)
    await io(uri, 'write -P 2 34M 6M', 'write -P 3 50M 64k', 'flush')
    await this.cycles(1)
    await source.nbdelta('snapshot', 'restore', NAME, 'good', '--force', '--no-wait', '--rate', '2MiB/s')
    if (!await this.#restoring()) throw new Error('the restore was over too early')
    await io(uri, 'read -P 1 32M 24M', 'discard 40M 4M', 'write -z 45M 1M', 'write -P 4 46M 70000')
    await this.cycles(1)
    await until('the end of the restore', 60_000, async () => !await this.#restoring())
    await this.cycles(1)
    if (this.peer.grow) await this.peer.grow(GROWN_MIB)
    await source.nbdelta('volume', 'resize', NAME, '--size', `${GROWN_MIB}MiB`)
    await io(uri, `write -P 5 ${SIZE_MIB - 1}M 2M`, `write -P 6 ${GROWN_MIB - 1}M 1M`)
    await this.cycles(1)
    await load.stop()
    return load.written
  }

  async #restoring(): Promise<boolean> {
    const jobs = JSON.parse(await this.source.nbdelta('job', 'list', '--json')) as { kind: string, state: string }[]
    return jobs.some(({ kind, state }) => kind === 'restore' && state === 'running')
  }

  async compare(): Promise<string> { return (await $({ nothrow: true })`qemu-img compare -p -f raw -F raw ${this.uri} ${this.peer.uri}`).stdout }
}

for (const { name, tools, start } of PEERS) {
  t.test(name, { skip: lacking('qemu-img', 'qemu-io', 'fio', ...tools), buffered: true }, async t => {
    const seed = seedOfRun()
    t.comment(`seed ${seed}`)
    const source = await InteropServer.start({ name: NAME, size: `${SIZE_MIB}MiB`, grain: '4KiB' })
    t.teardown(() => source.close())
    const peer = await start(source, SIZE_MIB)
    t.teardown(() => peer.close())
    const course = new Course(source, peer, seededRandom(seed))
    await io(course.uri, 'write -P 1 32M 24M')

    if (!peer.tellsHoles) {
      await t.rejects(source.nbdelta('mirror', 'create', 'm', NAME, peer.target), /not empty, or cannot tell/)
    }
    await source.nbdelta('mirror', 'create', 'm', NAME, peer.target, '--interval', '1s', ...peer.tellsHoles ? [] : ['--overwrite'])
    t.equal(await course.fio(seed), '', 'fio verifies what it wrote while cycles ran')
    const written = await course.disturb()
    await source.nbdelta('mirror', 'sync', 'm')
    t.match(await course.compare(), /Images are identical/, `after ${written} writes, a restore, a trim and a resize`)
    const row = await course.mirror()
    t.match(row, { state: 'paired', inSync: true, lagBytes: 0, problem: null })
    t.equal(row.unguarded.length > 0, !peer.guarded, row.unguarded.join('; '))

    await source.nbdelta('mirror', 'pause', 'm')
    const before = await peer.arrived?.()
    await io(course.uri, 'write -P 9 20M 4k', 'write -P 9 77777777 100', 'discard 36M 64k')
    t.equal((await course.mirror()).lagBytes, 2 * 4096 + 65536)
    await source.nbdelta('mirror', 'sync', 'm')
    const { lastDataBytes, lastZeroBytes } = await course.mirror()
    t.same([lastDataBytes, lastZeroBytes], [2 * 4096, 65536], 'what changed crossed, and nothing else')
    const after = await peer.arrived?.()
    if (after) t.same([after.data - before!.data, after.zeros - before!.zeros], [2 * 4096, 65536], 'as the peer counts it')
    t.match(await course.compare(), /Images are identical/)

    await source.nbdelta('mirror', 'verify', 'm')
    if (peer.guarded) {
      await t.rejects(io(peer.uri, 'write 0 512'), 'clients cannot write to it')
      await t.rejects(source.nbdelta('volume', 'resize', 'copy', '--size', '96MiB'), /is the target of mirror m/)
    } else {
      await io(peer.uri, 'write -P 0x66 33M 4k')
      await t.rejects(source.nbdelta('mirror', 'verify', 'm'), /differ in 1 region, the first 4096 bytes at 34603008/)
      await source.nbdelta('mirror', 'sync', 'm')
      t.match(await course.compare(), /Images are identical/, 'what somebody else wrote there is found, and repaired')
    }
  })
}
