/** Rows of the command table: `nbdelta replica ...`, of volumes that mirrors of other servers keep up. */
import type { ReplicaRow } from './admin-mirrors.js'
import { CHANGES, DRY_RUN, QUIET, READ_RATE, REMOTE_EXITS, VOLUME, WAIT } from './command.js'
import type { Command, Field } from './command.js'
import { ACTION_FIELDS, JOB_FIELDS } from './table-volume.js'

const REPLICA_FIELDS = {
  volume: { type: 'string', column: 'VOLUME', help: 'volume of this store' },
  mirror: { type: 'string', column: 'MIRROR', help: 'name of the mirror, at its own server' },
  source: { type: 'string', column: 'SOURCE', help: 'volume that is mirrored, there' },
  state: { type: 'string', column: 'STATE', help: 'secondary: read-only, its mirror ships to it; released: on its own' },
  epoch: { type: 'int', column: 'EPOCH', help: 'who comes with a lower one is refused' },
  attached: { type: 'bool', column: 'ATTACHED', help: 'its mirror is connected at this moment' },
  declaredAt: { type: 'time', column: 'DECLARED', help: 'when its declared point arrived; null: there is none yet' },
  root: { type: 'string', help: 'root of its content, as the mirror has it at the same point; null: none, or nobody compared' },
  verifiedAt: { type: 'time',
    help: 'when a declared point was read last, by `replica verify` here or `mirror verify` there; null: not since the start' },
  verified: { type: 'string', column: 'VERIFIED',
    help: 'what was found: equal or different from its source; read: by this server alone, without an error' },
  verifiedCycle: { type: 'int', help: 'number of that point; null: not known' },
  digest: { type: 'string', help: 'of all content of that point; null: it was not looked at to the end' },
} as const satisfies Record<keyof ReplicaRow, Field>

export const REPLICA_COMMANDS = [
  {
    noun: 'replica', verb: 'list', remote: true,
    summary: 'list volumes that other servers mirror to',
    description: 'Lists the volumes of this store that belong to mirrors of other nbdelta servers (`serve --peer`).',
    positional: [], options: [QUIET],
    result: { many: true, key: 'volume', fields: REPLICA_FIELDS },
    exits: [...REMOTE_EXITS],
    examples: ['replica list', 'replica list --json'],
  },
  {
    noun: 'replica', verb: 'verify', remote: true, serialised: true, longRunning: true,
    summary: 'read all of what a mirror has brought',
    description: 'Reads everything that the volume\'s last declared point holds, so that what the disk has lost is found before '
      + 'it is needed, and tells one digest of it, with the number of the point and its root. `mirror verify` at the mirror\'s '
      + 'own server tells the same digest of the same content; it compares by itself, if it can reach this server. The mirror '
      + 'goes on meanwhile.',
    positional: [VOLUME], options: [READ_RATE, WAIT],
    result: { many: false, fields: JOB_FIELDS },
    exits: [...CHANGES, 'damaged', 'interrupted'],
    examples: ['replica verify disk', 'replica verify disk --rate 50MiB'],
  },
  {
    noun: 'replica', verb: 'promote', remote: true, serialised: true, destructive: true,
    summary: 'take over from a server that is lost',
    description: 'Lets the volume stand on its own, at its last declared point, and refuses its mirror from then on: a server '
      + 'that comes back later cannot change it. What that server had not shipped yet is not here. If it is alive, '
      + '`mirror split` there loses nothing, and can be undone by a resync; this cannot. A volume that was promoted '
      + 'already stays as it is, and that is said.',
    positional: [VOLUME], options: [DRY_RUN],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['replica promote disk --dry-run', 'replica promote disk'],
  },
  {
    noun: 'replica', verb: 'forget', remote: true, serialised: true, destructive: true,
    summary: 'forget the mirror of a volume',
    description: 'Ends what a lost server left behind: the volume is nobody\'s secondary any more, its mirror\'s points go, and '
      + 'it can be deleted. For volumes that stand on their own, and for those whose first copy was never complete. If the '
      + 'mirror is still there, `mirror delete` on its own server does the same.',
    positional: [VOLUME], options: [DRY_RUN],
    result: { many: false, fields: ACTION_FIELDS },
    exits: [...CHANGES],
    examples: ['replica forget disk --dry-run', 'replica forget disk'],
  },
] as const satisfies readonly Command[]
