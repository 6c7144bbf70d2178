/** Commands that need files only and no server: `delta merge` and `delta verify`. Loaded when they are asked for. */
import { NbdeltaError, mergeDeltas, verifyDelta } from './index.js'
import type { DeltaRow } from './control/commands.js'

interface Control {
  readonly signal: AbortSignal
  readonly onProgress: (doneBytes: number, totalBytes: number) => void
}

/** What the stream is; undefined when standard output holds the stream itself. */
export async function runLocal(verb: string, args: Record<string, unknown>, control: Control): Promise<DeltaRow | undefined> {
  if (verb === 'verify') return rowOf(await verifyDelta(args.file as string, control))
  const files = args.files as string[]
  const sink = files.at(-1)!
  const sources = files.slice(0, -1)
  if (sources.length === 0) {
    throw new NbdeltaError('bad-argument', 'the file to write is missing', { hint: 'nbdelta delta merge OLDER NEWER MERGED' })
  }
  const { compress = 'none', overwrite } = args as { compress?: 'gzip' | 'zstd', overwrite: boolean }
  const merged = await mergeDeltas({ sources, sink, compress, overwrite, ...control })
  return sink === '-' ? undefined : rowOf(merged)
}

function rowOf({ header, direction, position }: Awaited<ReturnType<typeof verifyDelta>>): DeltaRow {
  const { volume, base, target, sizeBefore, sizeAfter, grainBytes, createdAt } = header
  return { volume, base, target, direction, sizeBefore, sizeAfter, grainBytes, createdAt, digest: position.digest }
}
