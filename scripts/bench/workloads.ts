/**
 * What is measured and what must be reached. A workload is its name:
 *
 *   CLIENT-KIND-BLOCK-dDEPTH[-cCONNECTIONS][-tcp]     lean-randread-4k-d16, fio-write-1m-d4, lean-randwrite-4k-d64-tcp
 *   copy-in[-tcp]  copy-out[-tcp]                     nbdcopy of a random file into the export, of the export to nowhere
 *
 * CLIENT: `lean` our own generator (nbdload.c), `fio` its nbd engine, `cold` the lean one on a file that is not cached.
 * Specials (idle, memory, stall, open, trim, snapshots, creation, points, mirrors) are measured otherwise; see specials.ts and the
 * files of those names.
 */
export interface Workload {
  readonly name: string
  readonly client: 'lean' | 'fio' | 'cold' | 'copy'
  /** randread, randwrite, read, write; in, out for copies. */
  readonly kind: string
  readonly blockBytes: number
  readonly depth: number
  readonly connections: number
  readonly transport: 'unix' | 'tcp'
}

/** `bound` on the median ratio to the best peer, or to one named peer. Rates must be above, CPU per operation below. */
export interface Goal {
  readonly metric: 'rate' | 'cpu'
  readonly against: 'best' | 'nbdkit'
  readonly bound: number
}

const KIB = 1024
const RANDOM = ['randread', 'randwrite']
const SETS: Readonly<Record<string, readonly string[]>> = {
  lean: RANDOM.flatMap(kind => [16, 64].map(depth => `lean-${kind}-4k-d${depth}`)),
  fio: RANDOM.flatMap(kind => [...[1, 16, 64].map(depth => `fio-${kind}-4k-d${depth}`), `fio-${kind}-4k-d16-c4`]),
  stream: ['64k-d8', '1m-d4'].flatMap(shape => ['read', 'write'].map(kind => `fio-${kind}-${shape}`)),
  copy: ['copy-out', 'copy-in'],
  cold: ['cold-randread-4k-d32'],
  tcp: [
    ...RANDOM.flatMap(kind => [`fio-${kind}-4k-d1`, `lean-${kind}-4k-d16`, `lean-${kind}-4k-d64`, `fio-${kind}-4k-d16-c4`]),
    'fio-read-1m-d4', 'fio-write-1m-d4', 'copy-out', 'copy-in',
  ].map(name => `${name}-tcp`),
  special: ['idle', 'memory', 'stall', 'open', 'trim', 'snapshots', 'creation', 'points', 'mirrors'],
}
const ALL = ['lean', 'fio', 'stream', 'copy', 'cold', 'tcp', 'special']

/** Names out of "lean,fio-randread-4k-d1,special": sets become what is in them, doubles are dropped, an unknown name throws. */
export function expandNames(text: string): string[] {
  const names = text.split(',').flatMap(name => name === 'all' ? ALL.flatMap(set => SETS[set]!) : SETS[name] ?? [name])
  for (const name of names) if (!isSpecial(name)) parseWorkload(name)
  return [...new Set(names)]
}

export const isSpecial = (name: string): boolean => SETS['special']!.includes(name)
export const setNames = (): string[] => ['all', ...Object.keys(SETS)]

export function parseWorkload(name: string): Workload {
  const copy = /^copy-(in|out)(-tcp)?$/.exec(name)
  if (copy) {
    const transport = copy[2] ? 'tcp' : 'unix'
    return { name, client: 'copy', kind: copy[1]!, blockBytes: 256 * KIB, depth: 64, connections: 4, transport }
  }
  const match = /^(lean|fio|cold)-(randread|randwrite|read|write)-(\d+)([km])-d(\d+)(?:-c(\d+))?(-tcp)?$/.exec(name)
  if (!match) throw new Error(`no workload '${name}'; sets: ${setNames().join(' ')}; single ones look like lean-randread-4k-d16`)
  const [, client, kind, amount, unit, depth, connections, tcp] = match
  return {
    name, client: client as Workload['client'], kind: kind!, blockBytes: Number(amount) * (unit === 'm' ? KIB * KIB : KIB),
    depth: Number(depth), connections: Number(connections ?? 1), transport: tcp ? 'tcp' : 'unix',
  }
}

/** Large blocks and copies are counted in MB/s, small ones in operations a second. */
export function isStream(workload: Workload): boolean {
  return workload.client === 'copy' || workload.blockBytes >= 64 * KIB
}

/** What has to be reached; the same over TCP as over unix sockets. */
export function goalsOf(workload: Workload): Goal[] {
  if (workload.client === 'cold') return [{ metric: 'rate', against: 'best', bound: 0.8 }]
  if (isStream(workload)) return [{ metric: 'rate', against: 'nbdkit', bound: 0.95 }]
  const { client, depth, connections } = workload
  const rate = connections >= 4 ? 1.5 : client === 'lean' ? (depth >= 64 ? 2 : 1.2) : depth === 1 ? 1.5 : 1.2
  const goals: Goal[] = [{ metric: 'rate', against: 'best', bound: rate }]
  if (depth >= 16 && connections === 1) goals.push({ metric: 'cpu', against: 'best', bound: depth >= 64 ? 0.65 : 0.8 })
  return goals
}
