/**
 * RemoteLive: a device that is somebody else's, an export of another server for example, as the live image of a volume.
 *
 * Like a block device its size is given: the volume takes as much of it as it has, and what lies behind may hold anybody's bytes.
 * What it takes where it lies is not known here. Zeros that may have to be written there are asked for in pieces, so that a
 * slow disk is done with each within a request's deadline.
 *
 * Opening one is the caller's matter (`OpenBacking`): this floor has no network.
 */
import type { BlockDevice, Origin, Pending, ZeroMode } from '../device/block-device.js'
import { NbdeltaError } from '../device/errors.js'
import { ForwardingDevice } from '../device/forwarding-device.js'

/** In 15 s, which is the server's deadline for a request, what 5 MB/s can. */
const ZERO_PIECE_BYTES = 64 * 2 ** 20

/** Opens what a URI names, for reading and writing. Rejects with a NbdeltaError. */
export type OpenBacking = (uri: string) => Promise<BlockDevice>

/** Errors: wrong-state (without an opener), read-only, those of the opener. */
export async function openRemoteLive(uri: string, open: OpenBacking | undefined): Promise<RemoteLive> {
  if (!open) {
    throw new NbdeltaError('wrong-state', `${uri} cannot be reached: this store was opened without a way to open URIs`,
      { hint: 'openStore({ openBacking })' })
  }
  const device = await open(uri)
  if (!device.capabilities.readOnly) return new RemoteLive(device)
  await device.close()
  throw new NbdeltaError('read-only', `${uri} cannot be written to`, { hint: 'its server exports it read-only' })
}

export class RemoteLive extends ForwardingDevice {
  readonly kind = 'block'
  protected readonly inner: BlockDevice

  constructor(device: BlockDevice) {
    super()
    this.inner = device
  }

  override zero(offset: number, length: number, mode: ZeroMode, origin?: Origin): Pending {
    if (mode.fast || length <= ZERO_PIECE_BYTES) return super.zero(offset, length, mode, origin)
    return this.#zeroInPieces(offset, offset + length, mode, origin)
  }

  async #zeroInPieces(from: number, end: number, mode: ZeroMode, origin: Origin | undefined): Promise<void> {
    for (let at = from; at < end; at += ZERO_PIECE_BYTES) {
      await super.zero(at, Math.min(ZERO_PIECE_BYTES, end - at), mode, origin)
    }
  }

  async allocatedBytes(): Promise<null> { return null }

  /** A volume never asks that of a block device. */
  async resize(): Promise<void> { throw new Error('the size of a remote image is not its volume\'s to change') }
}
