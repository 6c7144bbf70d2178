/**
 * What the demonstrations share: servers in a temporary folder, every command printed before it runs and its words after it, and an
 * end that says `identical` (exit code 0) or what went wrong (1). All that was started or attached is gone afterwards.
 *
 * The prompt says whose store a command is for: `A$ nbdelta ...` is `nbdelta ... --store FOLDER/store` of server A.
 */
import { rmSync } from 'node:fs'
import { InteropServer, type VolumeSpec } from '../interop/server.js'
import { $, lacking } from '../interop/tools.js'

const folders: string[] = []
/** After a signal, too. */
process.on('exit', () => { for (const folder of folders) rmSync(folder, { recursive: true, force: true }) })

export class Stage {
  readonly #servers: { readonly name: string, readonly server: InteropServer }[] = []
  /** What has to be taken down before the servers, newest first. */
  readonly #attached = new Set<() => Promise<void>>()
  #different = false

  say(...lines: readonly string[]): void { console.log(`\n# ${lines.join('\n# ')}`) }

  async serve(name: string, ...volumes: readonly VolumeSpec[]): Promise<InteropServer> {
    const server = await InteropServer.start()
    folders.push(server.dir)
    this.#servers.push({ name, server })
    console.log(`${name}$ nbdelta serve --store ${server.store} --nbd unix:${server.socketPath} --nbd tcp:127.0.0.1:${server.port} &`)
    for (const { name: volume, size } of volumes) await this.nbdelta(server, 'volume', 'create', volume, '--size', size)
    return server
  }

  /** Prints it, runs it, prints what it says. */
  async nbdelta(server: InteropServer, ...args: readonly string[]): Promise<string> {
    console.log(`${this.#nameOf(server)}$ nbdelta ${args.join(' ')}`)
    return print(await server.nbdelta(...args))
  }

  /** The same, of a mirror's facts only those that matter here. */
  async mirror(server: InteropServer, mirror: string, ...fields: readonly string[]): Promise<void> {
    console.log(`${this.#nameOf(server)}$ nbdelta mirror show ${mirror} | grep -E '^(${fields.join('|')}):'`)
    print((await server.nbdelta('mirror', 'show', mirror)).split('\n').filter(line => fields.some(field => line.startsWith(`${field}:`))).join('\n'))
  }

  async run(...command: readonly string[]): Promise<string> {
    console.log(`$ ${command.map(word => /[\s;&?]/.test(word) ? `'${word}'` : word).join(' ')}`)
    return print((await $`${command}`).stdout)
  }

  note(command: string): void { console.log(`$ ${command}`) }

  /** Two exports, byte by byte, by a tool that is not ours. */
  async compare(a: string, b: string): Promise<void> {
    const command = ['qemu-img', 'compare', '-f', 'raw', '-F', 'raw', a, b]
    console.log(`$ ${command.slice(0, -2).join(' ')} '${a}' '${b}'`)
    const { stdout, stderr } = await $({ nothrow: true })`${command}`
    print(stdout + stderr)
    if (!stdout.includes('Images are identical')) this.#different = true
  }

  async kill(server: InteropServer): Promise<void> {
    console.log(`$ kill -9 ${server.pid}    # server ${this.#nameOf(server)}`)
    await server.kill()
  }

  async again(server: InteropServer): Promise<void> {
    console.log(`${this.#nameOf(server)}$ nbdelta serve --store ${server.store} ... &`)
    await server.serve()
  }

  /** It is called at the end, whatever happens, unless it is withdrawn before. */
  holds(detach: () => Promise<void>): void { this.#attached.add(detach) }
  withdraws(detach: () => Promise<void>): void { this.#attached.delete(detach) }

  /** Runs the whole of it. */
  static async play(play: (stage: Stage) => Promise<void>): Promise<void> {
    const why = lacking('qemu-img', 'qemu-io')
    if (why) {
      console.log(why)
      process.exitCode = 1
      return
    }
    const stage = new Stage()
    // A loop disk has its own way to go at a signal: it detaches first, and ends the program then.
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.once(signal, () => { if (process.listenerCount(signal) === 0) process.exit(130) })
    }
    try {
      await play(stage)
      console.log(stage.#different ? '\ndifferent' : '\nidentical')
      if (stage.#different) process.exitCode = 1
    } catch (error) {
      console.log(`\nfailed: ${error instanceof Error ? error.message : String(error)}`)
      process.exitCode = 1
    } finally {
      for (const detach of [...stage.#attached].reverse()) await detach()
      for (const { server } of stage.#servers) await server.close()
    }
  }

  #nameOf(server: InteropServer): string { return this.#servers.find(one => one.server === server)!.name }
}

function print(words: string): string {
  const text = words.trimEnd()
  if (text !== '') console.log(text.replace(/^/gm, '    '))
  return words
}
