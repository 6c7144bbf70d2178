/** The workloads, one step each: what a client and time may do to a volume. */
import type { CrashLab } from './harness.js'

const GRAIN = 4096

export async function fillsStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(10)
  if (roll < 6) await lab.write(...lab.place())
  else if (roll < 8) await lab.flush()
  else if (roll < 9) await lab.wait(11_000)
  else await Promise.all([lab.write(0, 512), lab.write(3 * GRAIN - 512, 1024), lab.flush()].map(run => run))
}

export async function zeroesStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(20)
  if (roll < 7) await lab.write(...lab.place(4))
  else if (roll < 10) await lab.trim(...lab.place(5))
  else if (roll < 12) await lab.zero(...lab.place(5))
  else if (roll < 14) await lab.zero(...wholeGrains(lab), { fast: true })
  else if (roll < 15) await lab.zero(...lab.place(3), { allocate: true })
  else if (roll < 17) await lab.flush()
  else if (roll < 19) await lab.wait([30, 100, 11_000][lab.random(3)])
  else {
    // Three that do not overlap: in grains 0 and 1, in grain 2, in the last whole one.
    const [start, length] = lab.window
    const last = start + Math.floor(Math.min(length, lab.sizeBytes - start) / GRAIN - 1) * GRAIN
    if (last < start + 3 * GRAIN) return
    await Promise.all([lab.write(start, GRAIN + 512), lab.trim(start + 2 * GRAIN, GRAIN), lab.write(last + 512, 512)])
  }
}

/** Everything, with time passing often, and clean closes. */
export async function checkpointsStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(10)
  if (roll < 5) await zeroesStep(lab)
  else if (roll < 7) await lab.write(0, lab.sizeBytes)
  else if (roll < 8) await lab.reopen()
  else await lab.wait(11_000)
}

export async function resizesStep(lab: CrashLab): Promise<void> {
  const roll = lab.random(10)
  if (roll < 6) return zeroesStep(lab)
  const end = lab.window[0] + lab.window[1]
  const shorter = Math.max(2 * GRAIN, lab.sizeBytes - (1 + lab.random(4)) * 1536)
  if (roll < 8) await lab.resize(Math.min(end, lab.sizeBytes + (1 + lab.random(4)) * 1536))
  else if (roll < 9) await lab.resize(shorter)
  else {
    // What was trimmed, cut off and grown again must not hide what is written there next.
    const sizeBytes = lab.sizeBytes
    await lab.zero(0, sizeBytes, { fast: true })
    await lab.resize(shorter)
    await lab.resize(sizeBytes)
    await lab.write(sizeBytes - 512, 512)
  }
}

/** Stale grains, and what writes to them: the old bytes must never show, whatever of it reached the medium. */
export async function staleStep(lab: CrashLab): Promise<void> {
  const grains = Math.floor(lab.sizeBytes / GRAIN)
  const grain = lab.random(grains) * GRAIN
  const roll = lab.random(12)
  if (roll < 3) await lab.zero(...wholeGrains(lab), { fast: true })
  else if (roll < 6) await lab.zero(grain + lab.random(4) * 512, 512, { allocate: true })
  else if (roll < 8) await lab.write(grain + lab.random(8) * 512, 512)
  else if (roll < 10) await lab.write(0, lab.sizeBytes)
  else await lab.flush()
}

/** A client that goes on while reclaim, checkpoint and scan are at work: they meet between any two steps of each other. */
export async function racesStep(lab: CrashLab): Promise<void> {
  let waiting = true
  const client = async (): Promise<void> => {
    // Without a write before it, the checkpoint meets the first write to a region that it finds closed.
    const writes = lab.random(2) === 0
    for (let i = 0; i < 3; i++) await (writes ? racingRequest(lab) : lab.zero(...wholeGrains(lab), { fast: true }))
    const seen = lab.array.history.length
    while (waiting && !checkpointBegun(lab, seen)) await new Promise(resolve => { setImmediate(resolve) })
    for (let i = 0; i < 5; i++) {
      for (let turns = lab.random(4); turns > 0; turns--) await new Promise(resolve => { setImmediate(resolve) })
      await racingRequest(lab)
    }
  }
  const background = async (): Promise<void> => {
    for (const ms of [30, 5500, 5500, 5500]) await lab.wait(ms)
    waiting = false
  }
  await Promise.all([client(), background()])
}

/** Only a checkpoint writes the map file. */
function checkpointBegun(lab: CrashLab, since: number): boolean {
  return lab.array.history.slice(since).some(event => event.kind === 'write' && lab.array.names[event.disk] === 'map')
}

async function racingRequest(lab: CrashLab): Promise<void> {
  const roll = lab.random(10)
  if (roll < 6) await lab.write(...lab.place(4))
  else if (roll < 9) await lab.zero(...wholeGrains(lab), { fast: true })
  else await lab.flush()
}

function wholeGrains(lab: CrashLab): [offset: number, length: number] {
  const [start, length] = lab.window
  const grains = Math.floor(Math.min(length, lab.sizeBytes - start) / GRAIN)
  const from = lab.random(grains)
  return [start + from * GRAIN, (1 + lab.random(grains - from)) * GRAIN]
}
