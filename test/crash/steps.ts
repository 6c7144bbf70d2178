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
    const [start, length] = lab.window
    const middle = start + Math.floor(length / 2 / GRAIN) * GRAIN
    await Promise.all([lab.write(start, GRAIN + 512), lab.trim(start + 2 * GRAIN, GRAIN), lab.write(middle + 512, 512)])
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
  if (roll < 8) await lab.resize(Math.min(end, lab.sizeBytes + (1 + lab.random(4)) * 1536))
  else if (roll < 9) await lab.resize(Math.max(2 * GRAIN, lab.sizeBytes - (1 + lab.random(4)) * 1536))
  else await lab.flush()
}

function wholeGrains(lab: CrashLab): [offset: number, length: number] {
  const [start, length] = lab.window
  const grains = Math.floor(Math.min(length, lab.sizeBytes - start) / GRAIN)
  const from = lab.random(grains)
  return [start + from * GRAIN, (1 + lab.random(grains - from)) * GRAIN]
}
