/**
 * sweep: deletes everything that all hosts hold, with commands alone, as an operator would; in the end nothing may be left, nor in the way.
 *
 * What refuses to go is asked again for a while: jobs end, clients leave, cycles come to their end.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ChaosHost } from './chaos-host.js'

const SWEEP_MS = 90_000
const PAUSE_MS = 300

interface Named { readonly name: string }
interface Point { readonly volume: string, readonly name: string, readonly pins: readonly { readonly owner: string }[] }

/** Answers what does not go, or ''. */
export async function sweep(hosts: readonly ChaosHost[]): Promise<string> {
  for (const deadline = Date.now() + SWEEP_MS; ;) {
    for (const host of hosts) await pass(host)
    const left = await Promise.all(hosts.map(remains))
    if (left.every(one => one === '')) return ''
    if (Date.now() > deadline) return `cannot be deleted: ${left.join('; ')}`
    await sleep(PAUSE_MS)
  }
}

async function pass(host: ChaosHost): Promise<void> {
  const list = async <T>(...words: string[]): Promise<T[]> => (await host.ask(...words)) as T[]
  for (const { id, state } of await list<{ id: number, state: string }>('job', 'list')) if (state === 'running') await host.run('job', 'cancel', String(id))
  for (const { name } of await list<Named>('mirror', 'list')) await host.run('mirror', 'delete', name)
  for (const { volume } of await list<{ volume: string }>('replica', 'list')) {
    await host.run('replica', 'promote', volume)
    await host.run('replica', 'forget', volume)
  }
  for (const { name } of await list<Named>('group', 'list')) await host.run('group', 'delete', name)
  for (const { volume, name, pins } of await list<Point>('snapshot', 'list')) {
    for (const { owner } of pins) if (!/^(clone|mirror|restore|job) /.test(owner)) await host.run('snapshot', 'unpin', volume, name, '--owner', owner)
  }
  for (const { name } of await list<Named>('volume', 'list')) {
    // What an adopted file has to be given needs room.
    if ((await host.run('volume', 'delete', name, '--force')).exit === 6) await host.run('volume', 'set-budget', name, '--unlimited')
  }
}

async function remains(host: ChaosHost): Promise<string> {
  const left: string[] = []
  for (const noun of ['volume', 'mirror', 'group', 'replica', 'snapshot', 'client'] as const) {
    const rows = await host.ask(noun, 'list') as Record<string, unknown>[]
    if (rows.length > 0) left.push(`${noun} ${rows.map(row => JSON.stringify(row)).join()}`)
  }
  return left.length > 0 ? `${host.name}: ${left.join(', ')}; ${host.history.slice(-20).join('\n')}` : ''
}
