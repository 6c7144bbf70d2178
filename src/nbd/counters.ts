/** What one client has done on one export: numbers that the hot path raises, and the shapes `stats()` shows. */
import { COMMAND_NAMES } from '../../native-free/nbd/constants.js'
import type { ErrnoName } from '../../native-free/nbd/constants.js'

type OperationName = (typeof COMMAND_NAMES)[number]

interface TrafficStatus {
  /** Requests answered (or refused), by command. */
  readonly ops: Readonly<Record<OperationName, number>>
  readonly bytesRead: number
  readonly bytesWritten: number
  /** Error replies by errno. */
  readonly errors: Readonly<Partial<Record<ErrnoName, number>>>
}

export interface ClientStatus extends TrafficStatus {
  readonly id: number
  /** "unix" or "127.0.0.1:40000". */
  readonly address: string
  /** Undefined while it is still negotiating. */
  readonly export: string | undefined
  /** ISO 8601. */
  readonly connectedAt: string
  readonly inFlight: number
  /** Age of the oldest request that the device has not completed, milliseconds. */
  readonly oldestMs: number
}

export interface ExportStatus extends TrafficStatus {
  readonly name: string
  readonly clients: number
  readonly inFlight: number
  readonly oldestMs: number
}

export class Counters {
  readonly ops: number[] = COMMAND_NAMES.map(() => 0)
  bytesRead = 0
  bytesWritten = 0
  readonly errors = new Map<ErrnoName, number>()

  countError(name: ErrnoName): void { this.errors.set(name, (this.errors.get(name) ?? 0) + 1) }

  add(other: Counters): void {
    for (let i = 0; i < this.ops.length; i++) this.ops[i]! += other.ops[i]!
    this.bytesRead += other.bytesRead
    this.bytesWritten += other.bytesWritten
    for (const [name, count] of other.errors) this.errors.set(name, (this.errors.get(name) ?? 0) + count)
  }

  status(): TrafficStatus {
    const ops = Object.fromEntries(COMMAND_NAMES.map((name, i) => [name, this.ops[i]])) as Record<OperationName, number>
    return { ops, bytesRead: this.bytesRead, bytesWritten: this.bytesWritten, errors: Object.fromEntries(this.errors) }
  }
}
