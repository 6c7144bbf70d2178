/**
 * A disk behind somebody else's NBD server, as a mirror's target: it keeps no label and refuses nobody. Its power fails. Requests of a
 * lost connection are over when the client knows that it is lost, or is gone itself: that others are not is the weakness that such targets are told to
 * have (src/replication/device-target.ts).
 */
import type { BlockDevice } from '../../src/device/block-device.js'
import { MemoryDisk, type Random } from '../../src/device/testing.js'
import { GRAIN, type Image, imageOf, SIZE, SIZE_MAX } from './image.js'
import { Medium } from './medium.js'
import type { Flow, Network, Party } from './network.js'
import { type How, openWire, Served } from './wire.js'

export class FarDisk implements Party {
  readonly name = 'far'
  isPaused = false
  readonly #medium: Medium
  readonly #network: Network
  readonly #random: Random
  #served!: Served

  constructor(network: Network, random: Random) {
    this.#network = network
    this.#random = random
    this.#medium = new Medium(new MemoryDisk(random(2) === 0 ? SIZE : SIZE_MAX))
    this.#boot()
  }

  get sizeBytes(): number { return this.#medium.disk.sizeBytes }

  connect(client: Party, how: How): Promise<BlockDevice> {
    return openWire(this.#network, [client, this], how, () => this.#served, flow => { this.#settle(flow) })
  }

  /** Somebody's own write, durable. */
  async write(): Promise<void> {
    const grain = this.#random(this.sizeBytes / GRAIN)
    const disk = this.#medium.open({ isDead: false, random: this.#random, latePerMille: 0 })
    await disk.write(grain * GRAIN, GRAIN, Buffer.alloc(GRAIN, this.#random(256)), 0)
    await disk.flush()
  }

  image(): Promise<Image> { return imageOf(this.#medium.disk) }

  powerCut(): void {
    this.#network.vanish(this, false)
    this.#medium.powerCut(this.#random)
    this.#boot()
  }

  #boot(): void {
    this.#served = new Served('far', this.#medium.open({ isDead: false, random: this.#random, latePerMille: 0 }))
  }

  /** What is on its way arrives now, or never; in an ordered one nothing arrives behind what was lost. */
  #settle(flow: Flow): void {
    for (const request of this.#network.takeRequests(flow)) {
      if (this.#random(2) === 0) request.arrive()
      else if (flow.isOrdered) break
    }
    flow.end('server')
  }
}
