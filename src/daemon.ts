/**
 * The daemon: joins store, NBD server and control socket into one process, and ends it well. Written against the public API.
 *
 *   starting -> serving --signal--> draining -> stopped        (exit 0 when all was answered and flushed)
 *
 * Order of the start: store (its lock keeps a second server out) -> NBD -> control socket -> ready text. What was opened is
 * closed again when a later step fails. Order of the stop: no more changes, transfers cancelled, NBD drained (all in flight
 * answered, attached volumes flushed) -> store closed (all flushed, checkpoint) -> control socket, last, so that `status` shows
 * the drain. The second signal closes clients at once, the third ends the process.
 */
import { readyText } from './attach-lines.js'
import { createControlServer } from './control/server.js'
import { DaemonAdmin } from './daemon-admin.js'
import { judgeArguments, tryPlaces } from './daemon-arguments.js'
import { openPeerLink, PeerExports, placesOf, servePeers } from './daemon-link.js'
import { shownInstead, wholeAt } from './daemon-mirrors.js'
import { releaseExports } from './daemon-deltas.js'
import { isMixture, undoImports } from './daemon-imports.js'
import { createLog, endByBugs } from './daemon-log.js'
import { RemoteExports } from './daemon-remote.js'
import { Schedules } from './daemon-schedules.js'
import { Health } from './health.js'
import {
  EXIT, Mirrors, NbdeltaError, Secondaries, createServer, openNbdClient, openStore, parkThreads, systemClock,
} from './index.js'
import { StoreExports } from './store-exports.js'
import type { ControlServer } from './control/server.js'
import type { ServeOptions } from './daemon-arguments.js'
import type { DaemonLink } from './daemon-link.js'
import type { DaemonLog } from './daemon-log.js'
import type { NbdServer, Store } from './index.js'

/** How a stream talks to an NBD server: requests of one connection are executed in order; what it loses nobody sends again. */
const STREAM_LINK = { connections: 1, requestMs: 30_000, reconnect: { attempts: 0 } }
/**
 * How a cycle does. Within one no two writes overlap, so sending one again is harmless; a longer loss ends the cycle, and the
 * mirror tries again by itself.
 */
const MIRROR_LINK = { connections: 4, requestMs: 15_000, reconnect: { limitMs: 15_000 }, resendWrites: true }
const SIGNAL_WORDS = ['draining: a second signal closes clients at once', 'closing clients at once', 'ending at once']

interface Parts {
  readonly store: Store
  readonly server: NbdServer
  readonly control: ControlServer
  readonly admin: DaemonAdmin
  readonly health: Health
  readonly schedules: Schedules
  readonly mirrors: Mirrors
  readonly link: DaemonLink | undefined
}

/**
 * Serves until a signal has stopped it; resolves with the exit code.
 * @throws NbdeltaError when it cannot start; nothing stays open then
 */
export async function serve(options: ServeOptions): Promise<number> {
  const log = createLog(options.logLevel)
  endByBugs(log)
  const stopped = onSignals(log)
  const release = await parkThreads()
  try {
    const parts = await start(options, log)
    announce(options, parts)
    const { store, admin, control } = parts
    const facts = { listeners: admin.listeners(), peerListeners: admin.peerListeners(), control: control.path }
    log.logger.info({ store: store.path, ...facts }, 'serving')
    await stopped.first
    return await stop(parts, options, log, stopped)
  } finally {
    stopped.forget()
    release()
    log.flush()
  }
}

async function start(options: ServeOptions, { logger }: DaemonLog): Promise<Parts> {
  const judged = await judgeArguments(options)
  const { storeAt, listen, peer, controlAt, volumes } = judged
  // The server exists only later, and is looked at only then.
  const holder: Later = {}
  const remote = new RemoteExports(logger, () => holder.server?.addresses ?? [])
  const store = await openStore({
    path: storeAt, create: true, beforeCreate: () => tryPlaces(judged), logger, openBacking: uri => remote.openLive(uri),
  })
  const open: (() => Promise<unknown>)[] = [() => store.close()]
  try {
    for (const wanted of volumes) if (!store.get(wanted.name)) await store.createVolume(wanted)
    await undoImports(store, logger)
    await releaseExports(store, logger)
    const health = new Health(() => holder.server?.clients() ?? [], (fields, text) => { logger.warn(fields, text) })
    const owners = ownersOf(options, store, holder, logger)
    const { mirrors, secondaries } = owners
    // Before anybody can attach: whose clients see what depends on it.
    secondaries.start()
    mirrors.start()
    open.unshift(() => mirrors.stop())
    const exports = new StoreExports(store, change => { health.attached(change) },
      volume => isMixture(volume) ? null : shownInstead(owners, volume))
    const all = holder.exports = new PeerExports(exports, () => holder.server!)
    const limits = { memoryBytes: options.memory }
    const server = holder.server = await createServer({ exports: all, listen, limits, logger, spin: options.spin })
    open.unshift(() => server.close({ deadlineMs: 0 }))
    const schedules = new Schedules({ store, clock: systemClock, logger, wholeAt: volume => wholeAt(owners, volume) })
    const admin = holder.admin = new DaemonAdmin(
      { store, server, exports, health, schedules, remote, logger, ...owners, version: options.version, control: controlAt,
        ...limits, peerAddresses: () => holder.link ? [holder.link.address] : [] })
    const link = holder.link = peer && await servePeers({ ...peer, secondaries, clock: systemClock, logger })
    if (link) open.unshift(() => link.close())
    const control = await createControlServer({ path: controlAt, admin, clock: systemClock, logger })
    schedules.start()
    return { store, server, control, admin, health, schedules, mirrors, link }
  } catch (error) {
    for (const close of open) {
      await close().catch((again: unknown) => { logger.error({ err: again }, 'closing after a failed start') })
    }
    throw error
  }
}

/** What exists only later, and is looked at only then. */
interface Later { server?: NbdServer, admin?: DaemonAdmin, exports?: PeerExports, link?: DaemonLink | undefined }

/** Mirrors and secondaries: each asks the other whose a volume is. */
function ownersOf(
  { mirrorMemory }: ServeOptions, store: Store, later: Later, logger: DaemonLog['logger'],
): { mirrors: Mirrors, secondaries: Secondaries } {
  const secondaries: Secondaries = new Secondaries({
    store, logger, clock: systemClock, expose: volume => later.exports!.expose(volume),
    places: () => placesOf(later.server!.addresses),
    whileUnattached: (name, work) => later.admin!.whileUnattached(name, work),
    localMirror: uuid => mirrors.ofTarget(uuid)?.record.name,
  })
  const mirrors: Mirrors = new Mirrors({
    store, clock: systemClock, logBytes: mirrorMemory, logger, link: openPeerLink,
    connect: (uri, { ordered }) => openNbdClient({ uri, ...ordered ? STREAM_LINK : MIRROR_LINK, logger }),
    above: uuid => secondaries.above(uuid), wholeAt: volume => wholeAt({ mirrors, secondaries }, volume),
  })
  return { mirrors, secondaries }
}

function announce(options: ServeOptions, { store, server, control }: Parts): void {
  const exports = store.list().map(({ name, sizeBytes }) => ({ name, sizeBytes, uris: server.uri(name) }))
  const facts = { version: options.version, store: store.path, control: control.path, listeners: server.addresses, exports }
  // Who started the server may have closed its end; the server serves all the same.
  process.stdout.on('error', () => {})
  process.stdout.write(options.json ? `${JSON.stringify({ ready: true, pid: process.pid, ...facts })}\n` : readyText(facts))
}

interface Signals {
  /** Settles at the first signal. */
  readonly first: Promise<void>
  /** Called at the second. */
  hurry: () => void
  forget(): void
}

function onSignals({ logger, flush }: DaemonLog): Signals {
  let count = 0
  let begin!: () => void
  const onSignal = (signal: NodeJS.Signals): void => {
    count++
    logger.info({ signal }, SIGNAL_WORDS[Math.min(count, SIGNAL_WORDS.length) - 1]!)
    if (count === 1) begin()
    else if (count === 2) signals.hurry()
    else { flush(); process.exit(EXIT.interrupted) }
  }
  // A terminal that closes takes its server along, in good order; it may say so several times.
  const onHangUp = (signal: NodeJS.Signals): void => { if (count === 0) onSignal(signal) }
  const signals: Signals = {
    first: new Promise(resolve => { begin = resolve }),
    hurry: () => {},
    forget: () => { process.off('SIGINT', onSignal).off('SIGTERM', onSignal).off('SIGHUP', onHangUp) },
  }
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal).on('SIGHUP', onHangUp)
  return signals
}

/** Returns the exit code: 0 after a clean drain, else that of what failed. */
async function stop(parts: Parts, { drainSeconds }: ServeOptions, { logger }: DaemonLog, signals: Signals): Promise<number> {
  const { store, server, control, admin, health, schedules, mirrors, link } = parts
  let hurried = false
  signals.hurry = () => {
    hurried = true
    for (const { id } of server.clients()) server.kick(id)
  }
  admin.draining = true
  let failure: unknown
  try {
    await link?.close()
    await Promise.all([control.stop(), schedules.stop(), server.close({ deadlineMs: drainSeconds * 1000 })])
    // What clients were waiting for goes on to the targets meanwhile.
    await mirrors.stop()
    await store.close()
  } catch (error) {
    failure = error
    logger.error({ err: error }, 'the stop was not clean')
  }
  health.stop()
  await control.close()
  if (failure) return failure instanceof NbdeltaError ? failure.exitCode : EXIT.failure
  logger.info({}, 'stopped')
  return hurried ? EXIT.interrupted : EXIT.ok
}
