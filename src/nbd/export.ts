/**
 * What the NBD server needs from whoever owns the disks. The server declares it, the roof implements it;
 * neither nbd nor volume knows the other (DESIGN section 6).
 *
 * Rules: `describe` and `list` are cheap, open nothing and are consistent with each other (PROTOCOL H7, I7).
 * `open` happens only on a valid GO or EXPORT_NAME, and every handle is released exactly once.
 *
 * An export may have metadata contexts besides base:allocation. Their names are known before it is opened (`contexts`); what
 * they say is bound in `open`, so that it belongs to the instant of the data, and does not change while attached (C11).
 */
import type { BlockDevice, BlockSizes, Capabilities, Extents } from '../device/block-device.js'

export interface ExportInfo {
  /** Canonical name (differs from what was asked when "" means the default export). */
  readonly name: string
  readonly description: string
  readonly sizeBytes: number
  readonly readOnly: boolean
  readonly blockSizes: BlockSizes
  readonly capabilities: Capabilities
  /** Each connection may be bound to another instant, so a client must not spread its requests over several (D3). */
  readonly oneConnection?: boolean
}

/** Where a metadata context's extents come from; what their states mean is the context's. A BlockDevice is one. */
export interface StatusSource {
  /** As `BlockDevice.extents`. */
  extents(offset: number, length: number, maxExtents: number): Extents | Promise<Extents>
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
  /** Every context that `open` was asked for, by name. */
  readonly contexts?: ReadonlyMap<string, StatusSource>
  /** The client has gone and nothing of it runs any more. */
  release(): void
}

export interface ExportProvider {
  /** What LIST shows, in order. */
  list(): readonly { readonly name: string, readonly description: string }[]
  /** Undefined: there is no such export (or it is hidden from new clients). "" asks for the default export. */
  describe(name: string): ExportInfo | undefined
  /** Names of the export's own metadata contexts, in order, the ones most asked for first; cheap, opens nothing. */
  contexts?(name: string): readonly string[]
  /**
   * @param contexts which of them the client selected; one that is no longer there fails the opening
   * Rejects with a NbdeltaError whose message may be shown to the client.
   */
  open(name: string, client: ClientInfo, contexts: readonly string[]): Promise<ExportHandle>
}
