/**
 * Chaos: lives of three servers, one random step after the other, with clients, kills, stops, cut links and full disks in between.
 *
 * A life ends with nothing in flight and no trouble: all is read, then all is deleted, and space and descriptors must come back.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { ChaosHost } from './chaos-host.js'
import { ChaosTwins } from './chaos-twins.js'
import { trouble } from './chaos-mirrors.js'
import { ChaosModel } from './chaos-model.js'
import { ChaosStorm } from './chaos-storm.js'
import { sweep } from './chaos-sweep.js'
import { CommandPool } from './command-pool.js'
import { until } from '../../scripts/interop/tools.js'

const MIB = 2 ** 20
const DISK_MIB = 160
/** What a store keeps that has no volumes any more: its logs. */
const LEFT_BYTES = MIB
const FULL_MS = 3000
const WAIT_MS = 40_000
const RESIDENT_MAX = 450 * MIB

interface Base { readonly descriptors: readonly string[], readonly tree: readonly string[], readonly bytes: number }

export class Chaos {
  readonly totals = { lives: 0, steps: 0, reads: 0, looks: 0, kills: 0, restarts: 0, troubles: 0, fills: 0 }
  readonly #bases = new Map<ChaosHost, Base>()
  readonly #lull: (() => void)[] = []
  #lullUntilMs = 0

  private constructor(readonly hosts: readonly ChaosHost[], readonly pool: CommandPool, readonly random: () => number) {}

  static async start(random: () => number): Promise<Chaos> {
    const pool = new CommandPool(random)
    const hosts: ChaosHost[] = []
    for (const name of ['near', 'far', 'third']) hosts.push(await ChaosHost.start(name, DISK_MIB, pool))
    const chaos = new Chaos(hosts, pool, random)
    for (const host of hosts) chaos.#bases.set(host, { descriptors: host.descriptors(), tree: host.tree(), bytes: host.usedBytes() })
    return chaos
  }

  /** Answers what went wrong, or ''. */
  async live(steps: number, isStorm: boolean): Promise<string> {
    this.totals.lives++
    const model = new ChaosModel(this.random)
    const storm = new ChaosStorm(this.hosts, this.random)
    if (isStorm) storm.start(2)
    const wrong = (): string => model.failure || storm.failure || this.hosts.flatMap(host => host.wrong)[0] || ''
    const doing = new ChaosTwins(model, this.hosts)
    try {
      for (let step = 0; step < steps && !wrong(); step++) await this.#step(doing, model)
      await this.#calm(model)
      await storm.stop()
      this.totals.looks += storm.looks
      if (!wrong()) await this.#judge(model, doing)
      this.totals.reads += model.reads
      for (const host of this.hosts) host.judgeLog()
      return wrong() || await sweep(this.hosts) || wrong() || await this.#left()
    } catch (error) {
      return wrong() || (error as Error).stack!
    }
  }

  history(): string { return this.hosts.flatMap(host => host.history).sort().join('\n') }

  async close(): Promise<void> {
    for (const host of this.hosts) await host.close()
    await this.pool.close()
  }

  async #step(doing: ChaosTwins, model: ChaosModel): Promise<void> {
    this.totals.steps++
    const step = doing.pick(this.#table(doing))
    try {
      await step.call(doing)
    } catch (error) {
      throw new Error(`step ${step.name}: ${(error as Error).message}`, { cause: error })
    }
    if (this.random() < 0.1) await this.#trouble(model)
    if (this.random() < 0.15) for (const host of this.hosts) await model.judge(host)
    for (const host of this.hosts) host.judgeAlive()
    for (const volume of model.volumes) if (volume.clients?.failure || volume.clients?.areLost) await model.stopClients(volume)
  }

  #table(steps: ChaosTwins): readonly (() => Promise<void>)[] {
    const { create, clients, snapshot, read, readPoint, restore } = steps
    return [
      create, create, clients, clients, clients, snapshot, snapshot, snapshot, read, read, readPoint, restore, restore,
      steps.deletePoint, steps.renamePoint, steps.pin, steps.clone, steps.promote, steps.deleteVolume, steps.resize, steps.diff,
      steps.group, steps.group, steps.budget, steps.schedule, steps.hide, steps.reopen,
      steps.transfer, steps.overwrite, steps.exportAcross, steps.adopt, steps.delta, steps.deltaOn, steps.deltaOn,
      steps.createMirror, steps.createMirror, steps.sync, steps.sync, steps.look, steps.pause, steps.verify, steps.split,
      steps.resync, steps.resync, steps.deleteMirror, steps.takeOver, steps.takeOver, steps.replica,
      steps.mirrorOver, steps.mirrorOver, steps.snapshotOfTarget, steps.snapshotOfTarget, steps.cloneOfTarget, steps.carried,
      steps.churn, steps.churn, steps.squeeze, steps.squeeze, steps.deleteForce, steps.deleteForce, steps.failover, steps.failover, steps.cascade, steps.cascade,
      steps.twins, steps.twins, steps.twins, steps.twins,
    ]
  }

  async #trouble(model: ChaosModel): Promise<void> {
    const host = this.hosts[Math.floor(this.random() * this.hosts.length)]!
    const dice = this.random()
    if (this.#lull.length > 0) {
      if (Date.now() > this.#lullUntilMs) this.#end()
      return
    }
    if (dice < 0.3) {
      this.totals.kills++
      await host.kill()
      await model.stopHost(host)
      await model.readAll(host)
    } else if (dice < 0.5) {
      this.totals.restarts++
      await host.restart()
      await model.stopHost(host)
      await model.readAll(host)
    } else if (dice < 0.75) {
      this.totals.troubles++
      const end = trouble(host, this.random)
      await sleep(this.random() * 4000)
      end()
    } else {
      this.totals.fills++
      model.full.add(host)
      host.fill(this.random() < 0.5 ? 0 : MIB)
      this.#lull.push(() => { host.drain() })
      this.#lullUntilMs = Date.now() + this.random() * FULL_MS
    }
  }

  #end(): void { for (const end of this.#lull.splice(0)) end() }

  /** No trouble any more, and nothing in flight. */
  async #calm(model: ChaosModel): Promise<void> {
    this.#end()
    for (const host of this.hosts) await model.stopHost(host)
  }

  async #judge(model: ChaosModel, doing: ChaosTwins): Promise<void> {
    for (const host of this.hosts) await model.judge(host)
    // What is in doubt of the sources is settled before their targets are judged by them.
    for (const volume of model.volumes) if (!volume.targetOf) await model.read(volume)
    for (const mirror of model.mirrors) {
      if (mirror.isSplit) continue
      await until(`mirror ${mirror.name} to sync`, WAIT_MS, async () => {
        await mirror.host.run('mirror', 'resume', mirror.name)
        return (await mirror.host.run('mirror', 'sync', mirror.name)).exit === 0
      })
      await doing.sync([mirror])
    }
    for (const host of this.hosts) await model.readAll(host)
  }

  /** Answers what of a life stays, or ''. */
  async #left(): Promise<string> {
    for (const host of this.hosts) {
      const { descriptors, tree, bytes } = this.#bases.get(host)!
      const now = async (): Promise<string> => {
        const [open, files] = [more(host.descriptors(), descriptors), more(host.tree(), tree)]
        const [used, resident] = [host.usedBytes() - bytes, host.residentBytes()]
        const held = (await host.ask('status') as { memoryInUseBytes: number }).memoryInUseBytes
        return open.length > 0 ? `${host.name} has more descriptors open: ${open.join()}` : files.length > 0 ? `${host.name} keeps files: ${files.join()}`
          : used > LEFT_BYTES ? `${host.name} keeps ${used} bytes` : held > 0 ? `${host.name} holds ${held} bytes for requests`
            : resident > RESIDENT_MAX ? `${host.name} has ${resident} bytes of memory` : ''
      }
      let left: string
      // The connection of each question takes a moment to go.
      for (const deadline = Date.now() + 20_000; (left = await now()) !== '' && Date.now() < deadline;) await sleep(200)
      if (left) return left
    }
    return ''
  }
}

/** What the first list has that the second has not, as often as it has it more. */
function more(found: readonly string[], wanted: readonly string[]): string[] {
  const rest = [...wanted]
  return found.filter(one => {
    const at = rest.indexOf(one)
    if (at >= 0) rest.splice(at, 1)
    return at < 0
  })
}
