/**
 * RecordedFolder: everything this process does to the files below one folder, in order, by the functions of node:fs that the
 * product uses. What may be left of it when the power fails is folder-states.ts's.
 *
 * Each change has a beginning and an end: what has begun may be there, and a sync covers only what had ended when it began.
 * Holes are punched by fallocate, a child process: it is played here, by zeros (hole-puncher.ts).
 * Limits: no renames from one folder to another.
 */
import childProcess, { type ChildProcess } from 'node:child_process'
import fs from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { basename, dirname, relative } from 'node:path'
import type { Faults, What } from './faults.js'
import { type Punching, playedPuncher } from './hole-puncher.js'

/**
 * Files and folders are numbers, the folder itself 0; a name is what is said of one `within` another, and changes. A further name of
 * a file has a number of its own.
 */
export type Change =
  | { readonly what: 'write', readonly file: number, readonly offset: number, readonly data: Buffer }
  | { readonly what: 'size', readonly file: number, readonly bytes: number }
  | { readonly what: 'make', readonly name: string, readonly id: number, readonly isFolder: boolean, readonly within: number }
  | { readonly what: 'link', readonly file: number, readonly name: string, readonly id: number, readonly within: number }
  | { readonly what: 'rename', readonly id: number, readonly name: string, readonly within: number }
  /** And everything in it. */
  | { readonly what: 'remove', readonly id: number, readonly within: number }
  /** Of a file, or the names in a folder. */
  | { readonly what: 'sync', readonly id: number }
  /** A sync has failed: what was written before counts as done, and no later sync covers it. */
  | { readonly what: 'lost', readonly id: number }
  /** Of whoever makes the changes. */
  | { readonly what: 'note', readonly note: unknown }

/** Positions in the history; `end` is Infinity while it is on its way. */
export interface Recorded<C extends Change = Change> {
  readonly begun: number
  end: number
  readonly change: C
}

/** What was there before, and how it came to be there. */
interface Before {
  readonly paths: ReadonlyMap<string, number>
  /** Of further names: the file. */
  readonly links: ReadonlyMap<number, number>
  readonly history: readonly Recorded[]
  readonly position: number
}

export class RecordedFolder {
  readonly history: Recorded[] = []
  #position = 0
  readonly #root: string
  readonly #byName = new Map([['', 0]])
  readonly #byDescriptor = new Map<number, number>()
  readonly #nameOf = new Map<number, string>()
  readonly #links = new Map<number, number>()
  #nextId = 1
  readonly #restore: () => void

  /** What the disk refuses. */
  faults: Pick<Faults, 'failureOf' | 'isHarsh'> | undefined

  /** From now on, until `stop`. @param before what `root` holds; by default nothing */
  constructor(root: string, before?: Before, punching: Punching = 'refused') {
    this.#root = root
    if (before) this.#goOn(before)
    const { writeSync } = fs
    const punch = (fd: number, offset: number, length: number): void => {
      const zeros = Buffer.alloc(Math.max(0, Math.min(length, fs.fstatSync(fd).size - offset)))
      this.#writing(fd, zeros, 0, zeros.length, offset, () => { writeSync(fd, zeros, 0, zeros.length, offset) })
    }
    this.#restore = replaced([childProcess, {
      spawn: original => (...args: unknown[]): ChildProcess =>
        playedPuncher(args, punching, punch) ?? Reflect.apply(original, childProcess, args) as ChildProcess,
    }], [fs, {
      writeSync: original => (...args: Parameters<typeof fs.writeSync>) => {
        const [fd, from, at, length, offset] = args as unknown as [number, Buffer, number, number, number]
        const failure = this.#failureOf('write', fd)
        if (failure) throw failure
        return this.#writing(fd, from, at, length, offset, () => Reflect.apply(original, fs, args))
      },
      write: original => (...args: unknown[]) => {
        const [fd, from, at, length, offset, done] = args as [number, Buffer, number, number, number, (error: unknown, bytes: number) => void]
        const failure = this.#failureOf('write', fd)
        if (failure) return void setImmediate(done, failure, 0)
        const end = this.#beginWrite(fd, from, at, length, offset)
        Reflect.apply(original, fs, [fd, from, at, length, offset, (error: unknown, bytes: number) => {
          end()
          done(error, bytes)
        }])
      },
      fdatasync: original => (fd: number, done: (error: unknown) => void) => {
        const failure = this.#failureOf('sync', fd)
        if (failure) return void setImmediate(done, failure)
        const end = this.#beginSync(this.#byDescriptor.get(fd))
        Reflect.apply(original, fs, [fd, (error: unknown) => {
          end()
          done(error)
        }])
      },
    }], [fs.promises, {
      open: original => async (...args: Parameters<typeof fs.promises.open>) => this.#opened(String(args[0]), () => Reflect.apply(original, fs.promises, args)),
      mkdir: original => async (...args: Parameters<typeof fs.promises.mkdir>) => this.#making(String(args[0]), true, () => Reflect.apply(original, fs.promises, args)),
      link: original => async (...args: Parameters<typeof fs.promises.link>) => this.#linking(String(args[0]), String(args[1]), () => Reflect.apply(original, fs.promises, args)),
      rename: original => async (...args: Parameters<typeof fs.promises.rename>) => this.#renaming(String(args[0]), String(args[1]), () => Reflect.apply(original, fs.promises, args)),
      rm: original => async (...args: Parameters<typeof fs.promises.rm>) => this.#removing(String(args[0]), () => Reflect.apply(original, fs.promises, args)),
      rmdir: original => async (...args: Parameters<typeof fs.promises.rmdir>) => this.#removingEmpty(String(args[0]), () => Reflect.apply(original, fs.promises, args)),
      unlink: original => async (...args: Parameters<typeof fs.promises.unlink>) => this.#removing(String(args[0]), () => Reflect.apply(original, fs.promises, args)),
    }])
  }

  get position(): number { return this.#position }

  /** Names of files that are open. */
  get opened(): string[] { return [...this.#nameOf.values()] }

  note(note: unknown): void {
    const position = ++this.#position
    this.history.push({ begun: position, end: position, change: { what: 'note', note } })
  }

  stop(): void { this.#restore() }

  #goOn({ paths, links, history, position }: Before): void {
    for (const [path, id] of paths) this.#byName.set(path, id)
    for (const [id, file] of links) this.#links.set(id, file)
    this.history.push(...history)
    this.#position = position
    // What was lost has had numbers as well, each smaller than its position.
    this.#nextId = position
  }

  #name(path: string): string | undefined {
    const name = relative(this.#root, path)
    return name.startsWith('..') ? undefined : name
  }

  #begin(change: Change): () => void {
    const recorded: Recorded = { begun: ++this.#position, end: Infinity, change }
    this.history.push(recorded)
    return () => { recorded.end = ++this.#position }
  }

  #beginWrite(fd: number, from: Buffer, at: number, length: number, offset: number): () => void {
    const file = this.#byDescriptor.get(fd)
    if (file === undefined) return () => undefined
    return this.#begin({ what: 'write', file, offset, data: Buffer.from(from.subarray(at, at + length)) })
  }

  #beginSync(id: number | undefined): () => void { return id === undefined ? () => undefined : this.#begin({ what: 'sync', id }) }

  #writing<T>(fd: number, from: Buffer, at: number, length: number, offset: number, work: () => T): T {
    const end = this.#beginWrite(fd, from, at, length, offset)
    try {
      return work()
    } finally {
      end()
    }
  }

  #failureOf(what: What, fd: number): Error | undefined {
    const name = this.#nameOf.get(fd)
    return name === undefined ? undefined : this.#failing(what, name)
  }

  #failing(what: What, name: string): Error | undefined {
    const failure = this.faults?.failureOf(what, name)
    if (failure && what === 'sync' && this.faults!.isHarsh) this.#begin({ what: 'lost', id: this.#fileOf(name) })()
    return failure
  }

  #mayFail(what: What, name: string): void {
    const failure = this.#failing(what, name)
    if (failure) throw failure
  }

  async #opened(path: string, work: () => Promise<FileHandle>): Promise<FileHandle> {
    const name = this.#name(path)
    if (name === undefined) return work()
    const isThere = fs.existsSync(path)
    const handle = isThere ? await work() : await this.#making(path, false, work)
    const id = this.#fileOf(name)
    this.#byDescriptor.set(handle.fd, id)
    const { fd } = handle
    this.#nameOf.set(fd, name)
    let at = 0
    const around = <K extends 'truncate' | 'sync' | 'datasync' | 'writeFile' | 'close'>(method: K, begin: (...args: Parameters<FileHandle[K]>) => () => void): void => {
      const original = handle[method]
      Object.defineProperty(handle, method, { value: async (...args: Parameters<FileHandle[K]>) => {
        const what = WHAT[method]
        if (what) this.#mayFail(what, name)
        const end = begin(...args)
        try {
          return await Reflect.apply(original, handle, args)
        } finally {
          end()
        }
      } })
    }
    around('truncate', bytes => this.#begin({ what: 'size', file: id, bytes: bytes ?? 0 }))
    around('sync', () => this.#beginSync(id))
    around('datasync', () => this.#beginSync(id))
    around('writeFile', data => {
      const offset = at
      at += (data as Buffer).length
      return this.#begin({ what: 'write', file: id, offset, data: Buffer.from(data as Buffer) })
    })
    around('close', () => {
      this.#byDescriptor.delete(fd)
      this.#nameOf.delete(fd)
      return () => undefined
    })
    return handle
  }

  /** One that fails stays on its way. */
  async #making<T>(path: string, isFolder: boolean, work: () => Promise<T>): Promise<T> {
    const name = this.#name(path)
    if (name === undefined || fs.existsSync(path)) return work()
    this.#mayFail('make', name)
    const id = this.#nextId++
    const end = this.#begin({ what: 'make', name: basename(name), id, isFolder, within: this.#folderOf(name) })
    const done = await work()
    this.#byName.set(name, id)
    end()
    return done
  }

  async #linking(from: string, to: string, work: () => Promise<void>): Promise<void> {
    const [name, target] = [this.#name(from), this.#name(to)]
    if (name === undefined || target === undefined || fs.existsSync(to)) return work()
    this.#mayFail('make', target)
    const [id, file] = [this.#nextId++, this.#fileOf(name)]
    const end = this.#begin({ what: 'link', file, id, name: basename(target), within: this.#folderOf(target) })
    await work()
    this.#byName.set(target, id)
    this.#links.set(id, file)
    end()
  }

  async #renaming(from: string, to: string, work: () => Promise<void>): Promise<void> {
    const [name, target] = [this.#name(from), this.#name(to)]
    if (name === undefined || target === undefined || !fs.existsSync(from)) return work()
    this.#mayFail('rename', name)
    const end = this.#begin({ what: 'rename', id: this.#byName.get(name)!, name: basename(target), within: this.#folderOf(name) })
    await work()
    this.#forget(target)
    for (const [other, id] of this.#within(name)) {
      this.#byName.delete(other)
      this.#byName.set(target + other.slice(name.length), id)
    }
    end()
  }

  async #removing(path: string, work: () => Promise<void>): Promise<void> {
    const name = this.#name(path)
    if (name === undefined || !fs.existsSync(path)) return work()
    this.#mayFail('remove', name)
    const end = this.#begin({ what: 'remove', id: this.#byName.get(name)!, within: this.#folderOf(name) })
    await work()
    this.#forget(name)
    end()
  }

  /** Of one that is not empty nothing has begun. */
  async #removingEmpty(path: string, work: () => Promise<void>): Promise<void> {
    const isEmpty = fs.existsSync(path) && fs.readdirSync(path).length === 0
    return isEmpty ? this.#removing(path, work) : work()
  }

  #forget(name: string): void { for (const [gone] of this.#within(name)) this.#byName.delete(gone) }

  #within(name: string): [string, number][] { return [...this.#byName].filter(([other]) => other === name || other.startsWith(`${name}/`)) }

  #fileOf(name: string): number {
    const id = this.#byName.get(name)!
    return this.#links.get(id) ?? id
  }

  #folderOf(name: string): number {
    const folder = dirname(name)
    return this.#byName.get(folder === '.' ? '' : folder)!
  }
}

/** Closing never fails. */
const WHAT: Readonly<Partial<Record<string, What>>> = { truncate: 'size', sync: 'sync', datasync: 'sync', writeFile: 'write' }

type AnyFunction = (...args: never[]) => unknown
type Replacements = Readonly<Record<string, (original: AnyFunction) => unknown>>

/** Returns what undoes it. */
function replaced(...pairs: readonly (readonly [object, Replacements])[]): () => void {
  const undo: (() => void)[] = []
  for (const [object, replacements] of pairs) {
    for (const [name, replacement] of Object.entries(replacements)) {
      const original = (object as Record<string, AnyFunction>)[name]!
      Object.assign(object, { [name]: replacement(original) })
      undo.push(() => { Object.assign(object, { [name]: original }) })
    }
  }
  syncBuiltinESMExports()
  return () => {
    for (const one of undo) one()
    syncBuiltinESMExports()
  }
}
