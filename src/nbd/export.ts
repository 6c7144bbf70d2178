/**
 * What the NBD server needs from whoever owns the disks. The server declares it, the roof implements it;
 * neither nbd nor volume knows the other (DESIGN section 6).
 *
 * Rules: `describe` and `list` are cheap, open nothing and are consistent with each other (PROTOCOL H7, I7).
 * `open` happens only on a valid GO or EXPORT_NAME, and every handle is released exactly once.
 */
import type { BlockDevice, BlockSizes, Capabilities } from '../device/block-device.js'

export interface ExportInfo {
  /** Canonical name (differs from what was asked when "" means the default export). */
  readonly name: string
  readonly description: string
  readonly sizeBytes: number
  readonly readOnly: boolean
  readonly blockSizes: BlockSizes
  readonly capabilities: Capabilities
}

/** One attached client, as the operator sees it (`client list`). */
export interface ClientInfo {
  /** Unique within one server run. */
  readonly id: number
  /** "unix" or "127.0.0.1:40000". */
  readonly address: string
}

export interface ExportHandle {
  readonly info: ExportInfo
  readonly device: BlockDevice
  /** The client has gone and nothing of it runs any more. */
  release(): void
}

export interface ExportProvider {
  /** What LIST shows, in order. */
  list(): readonly { readonly name: string, readonly description: string }[]
  /** Undefined: there is no such export (or it is hidden from new clients). "" asks for the default export. */
  describe(name: string): ExportInfo | undefined
  /** Rejects with a NbdeltaError whose message may be shown to the client. */
  open(name: string, client: ClientInfo): Promise<ExportHandle>
}
