/** Rows of the command table: `nbdelta delta ...`. Merge and verify need files only, and no server. */
import { CHANGES, DRY_RUN, OF_VOLUME, POINT, WAIT } from './command.js'
import type { Command, Field } from './command.js'
import type { Parameter } from './options.js'
import { JOB_FIELDS } from './table-volume.js'

const FILE = { name: 'file', type: 'stream', value: 'FILE', required: true, complete: 'file' } as const
const COMPRESS = {
  name: 'compress', type: 'enum', value: 'HOW', choices: ['gzip', 'zstd'], help: 'pack the stream; zstd needs a newer Node.js',
} as const satisfies Parameter
const OVERWRITE = {
  name: 'overwrite', type: 'bool', default: false, help: 'replace an existing file',
} as const satisfies Parameter

/** What `delta verify` and `delta merge` say of a stream. */
export interface DeltaRow {
  readonly volume: string
  readonly base: string
  readonly target: string
  readonly direction: 'forward' | 'reverse'
  readonly sizeBefore: number
  readonly sizeAfter: number
  readonly grainBytes: number
  readonly createdAt: string
  readonly digest: string
}

const DELTA_FIELDS = {
  volume: { type: 'string', help: 'uuid of the volume it was made of' },
  base: { type: 'string', help: 'uuid of the point it starts from; empty: a full stream' },
  target: { type: 'string', help: 'uuid of the point it leads to' },
  direction: { type: 'string', help: 'forward, or reverse: to an older point' },
  sizeBefore: { type: 'bytes', help: 'size of the volume at its base' },
  sizeAfter: { type: 'bytes', help: 'size of the volume at its target' },
  grainBytes: { type: 'bytes', help: 'unit of change tracking' },
  createdAt: { type: 'time', help: 'when it was made' },
  digest: { type: 'string', help: 'checksum over all of it' },
} as const satisfies Record<keyof DeltaRow, Field>

const FILE_EXITS = [
  'ok', 'failure', 'usage', 'notFound', 'conflict', 'noSpace', 'io', 'damaged', 'denied', 'interrupted',
] as const

export const DELTA_COMMANDS = [
  {
    noun: 'delta', verb: 'export', remote: true, serialised: true, longRunning: true,
    summary: 'write what changed between two points',
    description: 'Writes a snapshot\'s content as a stream: all of it, or with --from only what differs from another '
      + 'snapshot or bookmark of the volume, older or newer. The stream checks itself and names both points by uuid. Both '
      + 'are pinned meanwhile. FILE is opened by the server, on the server\'s host; - is the standard output of this '
      + 'command. A file appears under its name only when it is complete. Ctrl-C cancels and leaves no file.',
    positional: [OF_VOLUME, { ...POINT, name: 'to', value: 'TO', help: 'snapshot whose content is written' },
      { ...FILE, help: 'file to write, or - for standard output' }],
    options: [{ ...POINT, name: 'from', value: 'POINT', required: false,
      help: 'write only what differs from this snapshot or bookmark' }, COMPRESS, OVERWRITE, WAIT],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...CHANGES, 'interrupted'],
    examples: ['delta export disk monday /backup/disk.full',
      'delta export disk@tuesday disk.1 --from monday --compress gzip',
      'delta export disk tuesday - --from monday'],
  },
  {
    noun: 'delta', verb: 'import', remote: true, serialised: true, longRunning: true, destructive: true,
    summary: 'bring a volume to the point a delta leads to',
    description: 'Applies a stream to a volume that is at the stream\'s base: it has a point of that identity and has not '
      + 'changed since. A full stream goes into an empty volume. In the end the volume has a snapshot named delta- and the '
      + 'beginning of the uuid (.2, if that is taken), labelled origin=UUID, from which the next delta goes on. No client may '
      + 'be attached, and the export is hidden meanwhile. When it fails, or the server is killed meanwhile, the volume is at its '
      + 'base again, if that is a snapshot; after a full stream that failed it is empty again. Where there is no room to bring '
      + 'it back, nobody can attach until volume reopen, a start of the server or a restore of all of it has done so. '
      + 'FILE is opened by the server, on the server\'s host; - is the standard input of this command. With --dry-run only the '
      + 'header of the stream is read, also of standard input, which is closed then: it says which points the stream leads from '
      + 'and to, and what does not fit is refused as the import would. What comes behind the header delta verify checks.',
    positional: [OF_VOLUME, { ...FILE, help: 'delta to read, packed or not, or - for standard input' }],
    options: [DRY_RUN, WAIT],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...CHANGES, 'damaged', 'interrupted'],
    examples: ['delta import copy /backup/disk.full', 'delta import copy - --json', 'delta import copy /backup/disk.1 --dry-run'],
  },
  {
    noun: 'delta', verb: 'merge', remote: false,
    summary: 'make one delta of several',
    description: 'Writes one stream that does what several do one after the other; they are named in that order. Where later '
      + 'ones overwrite earlier ones only the last is kept. It needs no server.',
    positional: [{ ...FILE, type: 'path', name: 'files', repeat: true,
      help: 'deltas to read, in the order in which they would be applied, and behind them the file to write, or -' }],
    options: [COMPRESS, OVERWRITE],
    result: { many: false, fields: DELTA_FIELDS },
    exits: FILE_EXITS,
    examples: ['delta merge disk.1 disk.2 disk.3 disk.1-3', 'delta merge disk.1 disk.2 disk.1-2 --compress gzip --overwrite'],
  },
  {
    noun: 'delta', verb: 'verify', remote: false,
    summary: 'check a delta',
    description: 'Reads a whole stream, packed or not, checks every record, and says what it is. It needs no server and '
      + 'changes nothing.',
    positional: [{ ...FILE, type: 'path', help: 'delta to read, or - for standard input' }],
    options: [],
    result: { many: false, fields: DELTA_FIELDS },
    exits: FILE_EXITS,
    examples: ['delta verify /backup/disk.1', 'delta verify - --json'],
  },
] as const satisfies readonly Command[]
