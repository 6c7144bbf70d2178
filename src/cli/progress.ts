/**
 * Progress of a job on standard error: a bar on a terminal, JSON lines with --json, else a line now and then.
 * Bytes, rate and the time that is left; zeros that were skipped count as done.
 */
import { Presets, SingleBar } from 'cli-progress'
import { formatSize } from '../control/options.js'
import { NbdeltaError } from '../control/commands.js'
import { clean, formatSeconds } from './render.js'
import type { JobRow } from '../control/commands.js'

/** Into a log file one line in ten seconds says that it lives and does not fill it. */
const LINE_MS = 10_000
/** JSON lines are for programs that draw by themselves. */
const JSON_MS = 1000

type ProgressRow = Pick<JobRow, 'state' | 'doneBytes' | 'totalBytes' | 'volume' | 'waiting'> & { readonly kind: string }

interface Progress {
  update(row: ProgressRow): void
  stop(): void
}

export function createProgress(options: { json: boolean, stream: NodeJS.WriteStream }): Progress {
  if (!options.json && options.stream.isTTY) return bar(options.stream)
  let writtenAtMs = Date.now() - (options.json ? JSON_MS : 0)
  let told: string | null = null
  return {
    update: row => {
      const now = Date.now()
      const last = row.state !== 'running'
      // Whoever waits with it is told why at once.
      const news = !!row.waiting && row.waiting !== told
      if (now - writtenAtMs < (options.json ? JSON_MS : LINE_MS) && !(last && options.json) && !news) return
      writtenAtMs = now
      told = row.waiting
      if (options.json) options.stream.write(`${JSON.stringify({ progress: row })}\n`)
      else if (!last && row.totalBytes) {
        const percent = Math.floor(100 * row.doneBytes / row.totalBytes)
        const done = `${formatSize(row.doneBytes)} of ${formatSize(row.totalBytes)}, ${percent} %`
        options.stream.write(`${row.kind} of ${row.volume}: ${done}${waits(row)}\n`)
      }
    },
    stop: () => {},
  }
}

/** A server that is older says nothing of it. */
function waits({ waiting }: Partial<ProgressRow>): string { return waiting ? `, waits: ${clean(waiting)}` : '' }

function bar(stream: NodeJS.WriteStream): Progress {
  const single = new SingleBar({
    stream, hideCursor: true, clearOnComplete: true,
    format: '{bar} {percentage} % | {done} of {all} | {rate}/s | {left} left{waits}',
  }, Presets.shades_classic)
  let startedAtMs = 0
  let startedBytes = 0
  return {
    update: row => {
      if (!row.totalBytes) return
      const now = Date.now()
      if (startedAtMs === 0) {
        startedAtMs = now
        startedBytes = row.doneBytes
        single.start(row.totalBytes, 0, { done: '', all: '', rate: '-', left: '-', waits: '' })
      }
      const rate = now > startedAtMs ? (row.doneBytes - startedBytes) / ((now - startedAtMs) / 1000) : 0
      single.update(row.doneBytes, {
        done: formatSize(row.doneBytes), all: formatSize(row.totalBytes), rate: rate > 0 ? formatSize(Math.round(rate)) : '-',
        left: rate > 0 ? formatSeconds((row.totalBytes - row.doneBytes) / rate) : '-', waits: waits(row),
      })
    },
    stop: () => { if (startedAtMs > 0) single.stop() },
  }
}

/** Runs work of this process's own with progress and Ctrl-C. */
export async function followLocal<T>(
  verb: string, json: boolean,
  work: (control: { signal: AbortSignal, onProgress: (done: number, total: number) => void }) => Promise<T>,
): Promise<T> {
  const progress = createProgress({ json, stream: process.stderr })
  const abort = new AbortController()
  const onInterrupt = (): void => { abort.abort() }
  process.on('SIGINT', onInterrupt)
  try {
    const onProgress = (doneBytes: number, totalBytes: number): void => {
      progress.update({ kind: verb, volume: 'deltas', state: 'running', doneBytes, totalBytes, waiting: null })
    }
    return await work({ signal: abort.signal, onProgress })
  } catch (error) {
    if (abort.signal.aborted) throw new NbdeltaError('cancelled', `${verb} cancelled`, { cause: error })
    throw error
  } finally {
    progress.stop()
    process.off('SIGINT', onInterrupt)
  }
}
