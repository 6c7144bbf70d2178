/**
 * GateDisk: a device whose requests wait at a gate until the test lets them through, one by one or all; the work is done on
 * the way out, as a slow disk does it. A request can also be made to fail. Open gate = the inner device, synchronously.
 *
 * It is a plain disk: it serialises nothing (DESIGN: whoever sits on top of shared state does).
 */
import { assertRange, type BlockDevice, type Extents, type Origin, type Pending,
  type ZeroMode } from '../../../src/device/block-device.js'

export type GateOperation = 'read' | 'write' | 'zero' | 'trim' | 'flush'

export interface Held {
  readonly operation: GateOperation
  readonly offset: number
  readonly length: number
  readonly origin: Origin | undefined
  /** Does the work now and completes the request. */
  pass(): void
  /** Completes the request with this error, undone. */
  fail(error: Error): void
}

export class GateDisk implements BlockDevice {
  readonly #inner: BlockDevice
  #shut = new Set<GateOperation>()
  /** What waits, in order of arrival. */
  readonly held: Held[] = []
  #arrival: (() => void)[] = []
  /** Operations that ran, in the order in which they ran. */
  readonly log: string[] = []

  constructor(inner: BlockDevice) { this.#inner = inner }

  get sizeBytes(): number { return this.#inner.sizeBytes }
  get blockSizes(): BlockDevice['blockSizes'] { return this.#inner.blockSizes }
  get capabilities(): BlockDevice['capabilities'] { return this.#inner.capabilities }

  /** From now on these operations wait; all when none is named. */
  shut(...operations: GateOperation[]): void {
    this.#shut = new Set(operations.length > 0 ? operations : ['read', 'write', 'zero', 'trim', 'flush'])
  }

  /** Nothing waits any more: neither what is held nor what comes. */
  openAll(): void {
    this.#shut.clear()
    for (const held of this.held.splice(0)) held.pass()
  }

  /** Takes the oldest held request out. */
  next(): Held {
    const held = this.held.shift()
    if (!held) throw new Error('nothing waits at the gate')
    return held
  }

  /** Waits until `count` requests are held. */
  async holding(count: number, patienceMs = 5000): Promise<void> {
    const until = Date.now() + patienceMs
    while (this.held.length < count) {
      const left = until - Date.now()
      if (left <= 0) throw new Error(`${this.held.length} requests wait at the gate, not ${count}`)
      await new Promise<void>(resolve => {
        this.#arrival.push(resolve)
        setTimeout(resolve, Math.min(left, 50))
      })
    }
  }

  read(offset: number, length: number, into: Buffer, at: number, origin?: Origin): Pending {
    assertRange(this, offset, length)
    return this.#at('read', offset, length, origin, () => this.#inner.read(offset, length, into, at))
  }
  write(offset: number, length: number, from: Buffer, at: number, origin?: Origin): Pending {
    assertRange(this, offset, length)
    return this.#at('write', offset, length, origin, () => this.#inner.write(offset, length, from, at))
  }
  zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    assertRange(this, offset, length)
    return this.#at('zero', offset, length, origin, () => this.#inner.zero(offset, length, mode))
  }
  trim(offset: number, length: number, origin?: Origin): Pending {
    assertRange(this, offset, length)
    return this.#at('trim', offset, length, origin, () => this.#inner.trim(offset, length))
  }
  flush(): Pending { return this.#at('flush', 0, 0, undefined, () => this.#inner.flush()) }

  zeroRun(offset: number, length: number): number { return this.#shut.has('read') ? length : this.#inner.zeroRun(offset, length) }
  extents(offset: number, length: number, maxExtents: number): Extents | Promise<Extents> {
    return this.#inner.extents(offset, length, maxExtents)
  }
  async close(): Promise<void> { this.openAll() }

  #at(operation: GateOperation, offset: number, length: number, origin: Origin | undefined, work: () => Pending): Pending {
    const run = (): void => {
      this.log.push(`${operation} ${offset} ${length}`)
      void work()
    }
    if (!this.#shut.has(operation)) {
      run()
      return undefined
    }
    return new Promise<void>((resolve, reject) => {
      this.held.push({ operation, offset, length, origin, pass: () => { run(); resolve() }, fail: reject })
      for (const wake of this.#arrival.splice(0)) wake()
    })
  }
}
