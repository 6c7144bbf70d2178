/**
 * What every interop script and test needs from the machine: finding tools, running them, waiting for things.
 * A tool that is absent is a reason to skip, never a failure; a tool that runs and fails is a failure with its words.
 */
import { accessSync, constants } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { $ as zx } from '../zx.js'

/** dist/scripts/interop -> the root of the checkout. */
export const ROOT = fileURLToPath(new URL('../../../', import.meta.url))
/** Downloads that may be thrown away at any time (git-ignored). */
export const CACHE = join(ROOT, '.cache')
/** Debian's own Python, because that is where the libnbd binding is installed; NBDELTA_PYTHON names another. */
export const PYTHON = process.env['NBDELTA_PYTHON'] ?? '/usr/bin/python3'
/** sbin too: mkfs, losetup and nbd-client live there and an ordinary user's PATH has it not. */
const PATH = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/local/sbin', '/usr/sbin', '/sbin']
const TOOL_MS = 120_000

/** The full path of a program, or undefined. */
export function which(tool: string): string | undefined {
  for (const path of tool.includes('/') ? [tool] : PATH.map(folder => join(folder, tool))) {
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch { /* not in this folder */ }
  }
  return undefined
}

/** `false`, or why a test that needs these programs must be skipped: tap takes it as it is. */
export function lacking(...tools: readonly string[]): string | false {
  const absent = tools.filter(tool => which(tool) === undefined)
  return absent.length > 0 && `not installed: ${absent.join(', ')} (as root: node scripts/deps.mjs tests kernel)`
}

/**
 * zx's `$` for this machine: quiet, English, with the wider PATH, ended after two minutes. A program that fails
 * rejects with its own words; `$({ nothrow: true })` and other presets build on it.
 */
export const $ = zx({ quiet: true, timeout: TOOL_MS, env: { ...process.env, PATH: PATH.join(delimiter), LC_ALL: 'C' } })

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => probe.once('listening', resolve))
  const { port } = probe.address() as AddressInfo
  await new Promise(resolve => probe.close(resolve))
  return port
}

/** Asks until the answer is not undefined or false, or throws after `timeoutMs` naming `what`. */
export async function until<T>(what: string, timeoutMs: number, ask: () => Promise<T | undefined | false> | T | undefined | false): Promise<T> {
  const deadline = Date.now() + timeoutMs
  for (;;) {
    const answer = await ask()
    if (answer !== undefined && answer !== false) return answer
    if (Date.now() > deadline) throw new Error(`gave up after ${timeoutMs} ms waiting for ${what}`)
    await sleep(20)
  }
}

/** mulberry32: a small seeded generator, [0, 1). Tests print the seed, so that a run can be had again. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** The seed of this run: SEED if it is set, else a new one. */
export function seedOfRun(): number {
  return process.env['SEED'] ? Number(process.env['SEED']) : Date.now() % 2 ** 31
}
