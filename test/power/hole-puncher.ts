/**
 * The child process by which the product punches holes (src/device/hole-punch.ts), played: as a file system does it that can, that
 * cannot, or that fails now and then. What is punched is zeros; whether space has come back nobody looks at.
 */
import type { ChildProcess } from 'node:child_process'
import { EventEmitter } from 'node:events'

/** `absent`: there is no such tool. */
export type Punching = 'works' | 'refused' | 'fails' | 'absent'

/** With `fails`, every so many ranges. */
const FAILS_EVERY = 3
let asked = 0

/** Undefined: it is another process that is to be started. @param args of `spawn` */
export function playedPuncher(
  args: readonly unknown[], punching: Punching, punch: (fd: number, offset: number, length: number) => void,
): ChildProcess | undefined {
  const [, words, options] = args as [string, readonly string[], { readonly stdio: readonly unknown[] }]
  if (!Array.isArray(words) || !words.at(-1)?.endsWith('/fallocate')) return undefined
  const fd = options.stdio[3] as number
  const [child, stdout, stderr] = [new EventEmitter(), new EventEmitter(), new EventEmitter()]
  const over = (complaint?: string): void => {
    if (complaint !== undefined) stderr.emit('data', Buffer.from(complaint))
    child.emit('close')
  }
  const answer = (line: string): void => {
    const [, offset, length] = line.split(' ')
    if (punching === 'refused') return over('fallocate: fallocate failed: Operation not supported')
    if (punching === 'fails' && ++asked % FAILS_EVERY === 0) return over('fallocate: fallocate failed: Input/output error')
    punch(fd, Number(offset), Number(length))
    stdout.emit('data', Buffer.from('.'))
  }
  const later = (work: () => void): void => { setTimeout(work, 1) }
  const stdin = Object.assign(new EventEmitter(), {
    write: (line: string) => { later(() => { answer(line) }) },
    end: () => { later(() => { over() }) },
  })
  return Object.assign(child, { stdin, stdout, stderr }) as unknown as ChildProcess
}
