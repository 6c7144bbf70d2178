/**
 * DeviceTarget: anything that is a BlockDevice as a mirror's target: an export of any NBD server. It keeps no label and no undo
 * data, so what it cannot promise is said (SEEDS X11). After an interrupted cycle it holds a mixture, until the next is done.
 */
import { allSettled } from '../device/all-settled.js'
import type { BlockDevice } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import type { MirrorTarget, TargetSession } from './target.js'

const UNGUARDED = Object.freeze([
  'it keeps no label: nothing tells another disk of the same size at this address from the right one',
  'it keeps no undo data: while a cycle runs, and after one was cut short, it holds a mixture of two points',
  'it lets requests of a lost connection end when they may: one could still be executed after a newer one',
  'it refuses nobody: others may write to it, and an older primary as well',
  'it does not tell what it holds: a write that it lost is found by mirror verify, which reads all of it, not by each cycle',
])

/** `ordered`: over one connection, that is lost for good when it is lost. */
export type Connect = (how: { readonly ordered: boolean }) => Promise<BlockDevice>

export class DeviceTarget implements MirrorTarget {
  readonly label: string
  readonly unguarded = UNGUARDED
  readonly keepsSnapshots = false
  readonly holds = false
  readonly #connect: Connect

  /** @param connect opens the device; a session owns it and closes it */
  constructor(label: string, connect: Connect) {
    this.label = label
    this.#connect = connect
  }

  async open(): Promise<TargetSession> {
    const device = await this.#connect({ ordered: false })
    let ordered: BlockDevice | undefined
    return {
      device, declared: undefined, root: null, digests: undefined, recall: undefined, changed: async () => undefined,
      begin: async ({ sizeBytes }) => {
        if (device.capabilities.readOnly) throw new NbdeltaError('read-only', `${this.label} cannot be written to`)
        if (device.sizeBytes < sizeBytes) {
          const hint = 'make it larger there; the mirror goes on by itself then'
          throw new NbdeltaError('too-large', `${this.label} has ${device.sizeBytes} bytes, the source ${sizeBytes}`, { hint })
        }
      },
      commit: async () => undefined,
      stream: async () => ordered ??= await this.#connect({ ordered: true }),
      suspend: async () => undefined,
      freeze: async () => {
        // What a cycle or a stream left there may be nowhere but in its cache: the source must not take over what can get lost.
        await device.flush()
        return { sizeBytes: device.sizeBytes, device, mayBeLarger: true }
      },
      accept: async () => undefined,
      close: () => allSettled([device.close(), ordered?.close()]),
    }
  }

  async hold(): Promise<never> { throw new NbdeltaError('wrong-state', `${this.label} keeps no points`) }
  async release(): Promise<void> { /* nobody was kept out */ }
  async forget(): Promise<void> { /* it keeps nothing */ }
}
