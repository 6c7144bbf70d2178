/**
 * Filesystems under snapshots and restores: ext4 and xfs over nbdfuse and a loop device are written to without a break while snapshots are
 * taken; then the volume is restored, unmounted, and written to again while the restore still copies. At last the server is killed, and every
 * snapshot is looked at through a clone. `node dist/scripts/interop/snapshots.js [ext4] [xfs]`, both by default. SEED repeats a run.
 *
 * What is proven of which snapshot
 *   frozen    (fsfreeze while it is taken; writers hang meanwhile, in the middle of whatever they do.) All is on the disk at that instant, and
 *             the checksums are read before the thaw. Its clone is attached read-only and mounted read-only without replaying the journal: so
 *             what is seen is the snapshot, to the byte, and nothing that a recovery made of it. It must pass fsck as it is and hold exactly
 *             the files of that instant, those that were half written included.
 *   running   (nothing is frozen.) It is what a power cut would have left: the journal has to be replayed, which needs a clone that can be
 *             written to. After that it must pass fsck, and every file that had been fsynced before the snapshot was asked for must be there
 *             with its content; of the others nothing is promised. Compared on a second, read-only attachment.
 *   restored  Right after the restore, while it copies: the volume itself, mounted read-only without replay, holds the snapshot's files.
 *   live      After the kill: what it held when it was unmounted.
 * XFS leaves its log dirty on purpose when it is frozen, so that xfs_repair finds fault with every frozen image: there the files are compared
 * first, read-only and without replay, and fsck is asked after a replay on the same clone.
 */
import { mkdir, open, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { cannotTry, checksums, FILESYSTEMS, type Sums } from './filesystems.js'
import { LoopDisk } from './loop-disk.js'
import { Report, type Check } from './report.js'
import { InteropServer } from './server.js'
import { $, lacking, seededRandom, seedOfRun } from './tools.js'

const ROUNDS = 2
/** Of each round, every second one frozen. */
const SNAPSHOTS = 6
const FILES = 120
const FILE_BYTES_MAX = 256 * 1024
const WRITERS = 2
const VOLUME = 'disk'
/** So slow that the second round begins long before the copying ends. */
const RATE = '512KiB/s'
/** Mounted like this nobody replays a journal. */
const AS_IT_IS: Readonly<Record<string, string>> = { ext4: 'ro,noload', xfs: 'ro,norecovery' }

/** Frozen, their log wants to be replayed all the same before fsck. */
const DIRTY_WHEN_FROZEN: ReadonlySet<string> = new Set(['xfs'])

interface Known {
  readonly frozen: boolean
  /** Frozen: all files; running: those that must be there. */
  readonly sums: Sums
}

/** Writes, overwrites and removes files, and now and then keeps one for good, fsynced, until it is told to stop. */
class Writer {
  #stopped = false
  #running: Promise<void>[] = []
  written = 0
  #kept = 0

  constructor(readonly root: string, readonly random: () => number) {}

  get kept(): string { return join(this.root, 'kept') }

  async start(): Promise<void> {
    for (const folder of ['tree', 'kept']) await mkdir(join(this.root, folder), { recursive: true })
    this.#kept = (await readdir(this.kept)).length
    this.#running = Array.from({ length: WRITERS }, () => this.#run())
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#running)
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const path = join(this.root, 'tree', `f${Math.floor(this.random() * FILES)}`)
      const dice = this.random()
      const content = randomBytes(1 + Math.floor(this.random() * FILE_BYTES_MAX))
      if (dice < 0.15) await rm(path, { force: true })
      else if (dice < 0.95) await writeFile(path, content)
      else await this.#keep(join(this.kept, `k${this.#kept++}`), content)
      this.written++
    }
  }

  /** The folder is synced as well: the file is complete and named before anybody counts on it. */
  async #keep(path: string, content: Buffer): Promise<void> {
    for (const [place, data] of [[path, content], [this.kept, undefined]] as const) {
      const file = await open(place, data ? 'wx' : 'r')
      try {
        if (data) await file.writeFile(data)
        await file.sync()
      } finally {
        await file.close()
      }
    }
    this.durable.add(path)
  }

  readonly durable = new Set<string>()
}

/** One filesystem from mkfs to the last clone. */
class Course {
  readonly known = new Map<string, Known>()
  readonly #random: () => number
  #disk: LoopDisk | undefined
  #final: Sums = {}
  /** Files that stay, by path: those the filesystem had when its writer began, too. */
  #lasting: Sums = {}

  constructor(readonly name: string, readonly server: InteropServer, readonly check: Check, readonly seed: number) {
    this.#random = seededRandom(seed)
  }

  get #kind() { return FILESYSTEMS[this.name]! }

  async run(): Promise<void> {
    try {
      if (!await this.#prepare()) return
    } finally {
      await this.#disk?.detach()
    }
    await this.check(`${this.name}: a frozen snapshot deleted, and kill -9`, async () => {
      await this.server.nbdelta('snapshot', 'delete', VOLUME, 'r2s2')
      this.known.delete('r2s2')
      await this.server.kill()
      await this.server.serve()
    })
    await this.check(`${this.name}: live after the kill: fsck and ${Object.keys(this.#final).length} files`,
      () => this.#compare(VOLUME, this.#final, 'all'))
    for (const [point, known] of this.known) await this.#judge(point, known)
  }

  get #dirtyWhenFrozen(): boolean { return DIRTY_WHEN_FROZEN.has(this.name) }

  async #prepare(): Promise<boolean> {
    const { check, name, server } = this
    this.#disk = await LoopDisk.attach(server.uri(VOLUME), server.dir)
    if (!await check(`${name}: mkfs`, () => this.#kind.make(this.#disk!.device))) return false
    for (let round = 1; round <= ROUNDS; round++) {
      if (!await check(`${name}: ${SNAPSHOTS} snapshots under ${WRITERS} writers (seed ${this.seed})`, () => this.#round(round))) return false
      await this.#disk!.detach()
      if (round === ROUNDS) return true
      // The kernel's cache of the loop device is gone with it: what is attached next sees the restored volume.
      // Not the last one: hardly anything was overwritten since.
      const from = `r${round}s${2 * (1 + Math.floor(this.#random() * (SNAPSHOTS / 2 - 1)))}`
      if (!await check(`${name}: restore to ${from}, copying ${RATE}`, () =>
        server.nbdelta('snapshot', 'restore', VOLUME, from, '--rate', RATE, '--no-wait'))) return false
      if (!await check(`${name}: files right after the restore`, () =>
        this.#compare(VOLUME, this.known.get(from)!.sums, 'all', !this.#dirtyWhenFrozen))) return false
      this.#lasting = onlyKept(this.known.get(from)!.sums)
      this.#disk = await LoopDisk.attach(server.uri(VOLUME), server.dir)
      if (!await check(`${name}: it still copies`, async () => { if (!await this.#copying()) throw new Error('it is over already') })) return false
    }
    return true
  }

  async #copying(): Promise<boolean> {
    const jobs = JSON.parse(await this.server.nbdelta('job', 'list', '--json')) as { kind: string, state: string }[]
    return jobs.some(({ kind, state }) => kind === 'restore' && state === 'running')
  }

  async #round(round: number): Promise<void> {
    const disk = this.#disk!
    await disk.mount()
    const writer = new Writer(disk.mountPoint, this.#random)
    await writer.start()
    try {
      for (let i = 1; i <= SNAPSHOTS; i++) {
        await sleep(300 + this.#random() * 700)
        const name = `r${round}s${i}`
        this.known.set(name, i % 2 === 0 ? await this.#frozen(name) : await this.#running(name, writer))
      }
    } finally {
      await writer.stop()
    }
    if (writer.written < SNAPSHOTS * 10) throw new Error(`only ${writer.written} files were written`)
    this.#final = await checksums(disk.mountPoint)
    await disk.unmount()
  }

  async #frozen(name: string): Promise<Known> {
    const { mountPoint } = this.#disk!
    await $`fsfreeze -f ${mountPoint}`
    try {
      await this.server.nbdelta('snapshot', 'create', VOLUME, name)
      return { frozen: true, sums: await checksums(mountPoint) }
    } finally {
      await $`fsfreeze -u ${mountPoint}`
    }
  }

  async #running(name: string, writer: Writer): Promise<Known> {
    const durable = [...writer.durable]
    await this.server.nbdelta('snapshot', 'create', VOLUME, name)
    const now = await checksums(writer.kept)
    return { frozen: false, sums: { ...this.#lasting, ...Object.fromEntries(durable.map(path => [path, now[path]!])) } }
  }

  async #judge(point: string, { frozen, sums }: Known): Promise<void> {
    const { name, server } = this
    const clone = `clone-${point}`
    const kind = frozen ? 'frozen' : 'running'
    await this.check(`${name}: ${point}, ${kind}, as a clone: fsck and ${Object.keys(sums).length} files`, async () => {
      await server.nbdelta('snapshot', 'clone', VOLUME, point, clone)
      try {
        if (frozen) await this.#compare(clone, sums, 'all', !this.#dirtyWhenFrozen)
        if (frozen && !this.#dirtyWhenFrozen) return
        await this.#replay(clone)
        await this.#compare(clone, sums, frozen ? 'all' : 'these')
      } finally {
        await server.nbdelta('volume', 'delete', clone)
      }
    })
  }

  /** Mounting replays the journal. */
  async #replay(volume: string): Promise<void> {
    const disk = await LoopDisk.attach(this.server.uri(volume), this.server.dir)
    try {
      await disk.mount()
      await disk.unmount()
    } finally {
      await disk.detach()
    }
  }

  /** Attached read-only, as it is: fsck, then the files. */
  async #compare(volume: string, wanted: Sums, which: 'all' | 'these', fsck = true): Promise<void> {
    const disk = await LoopDisk.attach(this.server.uri(volume), this.server.dir, { readOnly: true })
    try {
      if (fsck) await this.#kind.check(disk.device)
      await disk.mount('-o', AS_IT_IS[this.name]!)
      const found = await checksums(disk.mountPoint)
      const paths = Object.keys(which === 'all' ? { ...wanted, ...found } : wanted)
      const wrong = paths.filter(path => wanted[path] !== found[path])
      if (wrong.length > 0) throw new Error(`${wrong.length} of ${paths.length} files differ: ${wrong.slice(0, 5).join(', ')}`)
    } finally {
      await disk.detach()
    }
  }
}

function onlyKept(sums: Sums): Sums { return Object.fromEntries(Object.entries(sums).filter(([path]) => path.includes('/kept/'))) }

const report = new Report()
const seed = seedOfRun()
const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(AS_IT_IS)
for (const name of wanted) {
  if (!AS_IT_IS[name]) throw new Error(`no such filesystem: ${name}; known: ${Object.keys(AS_IT_IS).join(' ')}`)
  const why = await cannotTry(name) || lacking('fsfreeze')
  if (why) {
    report.skip(name, why)
    continue
  }
  const server = await InteropServer.start({ name: VOLUME, size: '1GiB' })
  try {
    await new Course(name, server, report.check, seed).run()
  } finally {
    await server.close()
  }
}
report.end()
