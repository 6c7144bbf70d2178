/**
 * Faults to plant: one small change of one compiled file each, and the test that has to see it. `find` occurs `times` times,
 * once by default; a file that has moved on makes the list wrong, and list.test.ts says so. What was caught, by what, how soon:
 * docs/mutants.md.
 */
import type { JudgeName } from './judges.js'

export interface Mutant {
  readonly name: string
  /** Below dist/src. */
  readonly file: string
  readonly find: string
  readonly put: string
  readonly times?: number
  /** The quickest test that catches it: a judge, or a file of test/ without `.test.ts`. */
  readonly judge: JudgeName | `${string}/${string}`
}

export const MUTANTS: readonly Mutant[] = [
  // Preserving and marking (preserver.ts, gate.ts, chain.ts)
  { name: 'PRESERVE before the copy is flushed', file: 'volume/preserver.js', find: 'await point.files.preserved.flush();',
    put: ';', judge: 'preserving' },
  { name: 'live overwritten before PRESERVE is durable', file: 'volume/preserver.js', find: 'await journal.sync();', put: '', judge: 'preserving' },
  { name: 'a mark without its HOT record', file: 'volume/preserver.js', find: 'if (newest && extents.length > 0) {',
    put: 'if (false) {', judge: 'bookmarks' },
  { name: 'marks of trims taken as durable', file: 'volume/gate.js', find: 'const loose = chain.loose.size > 0 &&',
    put: 'const loose = false &&', judge: 'loose' },
  { name: 'what is lent overwritten', file: 'volume/gate.js', find: 'copies.push(...lentCopies(chain, from, to));', put: '', judge: 'sequences' },
  { name: 'lent grains forgotten at open', file: 'volume/recovery.js', find: 'of chain.lentRuns(map.grains))', put: 'of [])', judge: 'preserving' },
  { name: 'the mark of a preserved grain forgotten at open', file: 'volume/recovery.js', find: 'chain.markIn(newest, range.start, end);',
    put: ';', judge: 'preserving' },
  { name: 'reclaim before the mark of the trim is durable', file: 'volume/reclaim.js', find: 'await journal.sync();',
    put: ';', times: 2, judge: 'volume/point-order' },
  { name: 'what a dying snapshot preserved is preserved again, newer', file: 'volume/chain.js', judge: 'volume/point-order',
    find: 'this.#covering = this.points.filter((point, index) => index > behind && point.isSnapshot);', put: 'this.#covering = [];' },
  { name: 'shrink cuts off what snapshots need', file: 'volume/resize.js', find: 'await parts.gate.admit(Math.floor(sizeBytes / core.grainBytes), core.map.grains);',
    put: ';', judge: 'sequences' },

  // Checkpoints (checkpoint.ts, point.ts, twin-map.ts)
  { name: 'what was preserved during a checkpoint not said again', file: 'volume/chain.js', find: "records.push(...encodeRanges('preserve',",
    put: "[].push(...encodeRanges('preserve',", judge: 'races' },
  { name: 'the checkpoint forgets who is the newest', file: 'volume/chain.js', find: "records.push(...encodeRanges('hot', [NO_EXTENT], newest.seq))",
    put: '0', judge: 'checkpoints' },
  { name: 'maps written before the journal is durable', file: 'volume/checkpoint.js', find: 'await point.files.save(point, dirty, () => journal.sync());',
    put: 'await point.files.save(point, dirty, () => undefined);', judge: 'volume/point-order' },
  { name: 'twin maps: a page that A has lost is not taken from B', file: 'store/twin-map.js', find: '                copyPage(second, into, page);',
    put: ';', judge: 'store/twin-map' },
  { name: 'twin maps: B written before A is durable', file: 'store/twin-map.js', find: 'await begun[0].map.flush();',
    put: 'if (twin === 1) await begun[0].map.flush();', judge: 'store/twin-map' },

  // Making and deleting points (point-creation.ts, points.ts, point-merge.ts, point-table.ts)
  { name: 'table record before live and journal are flushed', file: 'volume/point-creation.js', find: 'await allSettled(points.map(point => point.secure()));',
    put: '', judge: 'volume/point-order' },
  { name: 'the journal is not told of a new point', file: 'volume/point-creation.js', find: "this.#appends.push(journal.append('hot',",
    put: "((..._) => undefined)(((..._) => undefined)('hot',", judge: 'creations' },
  { name: 'a number given twice', file: 'store/point-table.js', find: 'Math.max(this.#index.mark(volume), this.#given.get(volume) ?? 0, above)',
    put: 'this.#index.list(volume).length', judge: 'store/point-table' },
  { name: 'a merged map dropped', file: 'volume/chain.js', find: 'older.changed.set(start, end);', put: ';', judge: 'sequences' },
  { name: 'a pin ignored', file: 'volume/points.js', find: '            refusePinned(point.info',
    put: '            void (point.info', judge: 'volume/points' },
  { name: 'deletion answered before it is durable', file: 'volume/points.js', find: 'await this.#needStore().put([{ ...point.info, deleting: true }], []);',
    put: '', judge: 'removals' },
  { name: 'deletion without handing grains over', file: 'volume/point-merge.js', find: 'await this.#inRoom(point, heir, gone, pieceBytes => this.#handOver(point, heir, pieceBytes));',
    put: ';', judge: 'sequences' },
  { name: 'grains handed over without a flush', file: 'volume/point-merge.js', find: 'await heir.files.preserved.flush();',
    put: '', judge: 'volume/point-order' },
  { name: 'lent grains of a deleted snapshot kept for ever', file: 'volume/point-merge.js', find: 'await this.#release(point);',
    put: '', judge: 'volume/point-order' },
  { name: 'a point removed before a checkpoint', file: 'volume/point-merge.js', find: 'await this.#inRoom(point, heir, gone, () => checkpointer.run());',
    put: '', judge: 'volume/point-order' },

  // Space (space.ts, usage.ts)
  { name: 'staged without room for it', file: 'volume/staging.js', find: 'space.roomFor(from, to)', put: '[]', judge: 'space' },
  { name: 'staged without a promise', file: 'volume/staging.js', find: 'space.promise(needed);', put: '', judge: 'space' },
  { name: 'nothing given up', file: 'volume/space.js', find: 'if (await this.#making)', put: 'if (false)', judge: 'space' },
  { name: 'anybody\'s snapshot given up', file: 'volume/space.js', find: "point.info.labels.auto === 'undo' &&", put: '', judge: 'space' },
  { name: 'a request asks for no room', file: 'volume/space.js', find: 'if (grains > 0 && !this.#hasRoom(grains))', put: 'if (false)', judge: 'space' },

  // Restores and clones (restore.ts, adopter.ts, inherited.ts, copier.ts)
  { name: 'undo not taken', file: 'volume/restore-switch.js', find: 'core.chain.lendAll(undo, layer.todo, core.map.data);', put: '', judge: 'restores' },
  { name: 'preserving skipped in a restore', file: 'volume/adopter.js', find: 'this.#parts.preserver.secure(lent, []));',
    put: 'Promise.resolve());', judge: 'restores' },
  { name: 'the set of a restore not saved', file: 'volume/inherited.js', find: 'await this.file.save(this.todo, this.todo.usedPages(), settle);', put: '', judge: 'restores' },
  { name: 'a restore answered before its record', file: 'volume/restore-switch.js', find: 'await put(taken.map(({ changes }) => changes));',
    put: 'put(taken.map(({ changes }) => changes)).catch(() => undefined);', judge: 'volume/restore' },
  { name: 'a record for each volume of a group that is restored', file: 'volume/restore-switch.js', find: 'await put(taken.map(({ changes }) => changes));',
    put: 'for (const one of taken) await put([one.changes]);', judge: 'crash/group-restores' },
  { name: 'INHERITED before the bytes are flushed', file: 'volume/adopter.js', find: 'await flushNow(this.#core);',
    put: '', times: 2, judge: 'volume/restore' },
  { name: 'copied before the undo point is settled', file: 'volume/adopter.js', find: 'await this.#parts.checkpointer.run();',
    put: ';', judge: 'restores' },
  { name: 'a layer ended before the journal is durable', file: 'volume/restore.js', find: 'await core.journal.sync();', put: '', judge: 'clones' },
  { name: 'the copier overwrites what a client wrote', file: 'volume/inherited.js', find: 'this.todo.clear(from, to);', put: '', judge: 'sequences' },
  { name: 'the map of a restore saved to before it is known', file: 'volume/inherit-disk.js', find: 'this.#map.assume(fill);',
    put: '', judge: 'restores' },
  { name: 'words that two bitmaps have are edited', file: '../native-free/grain-bitmap.js', find: 'this.#shared[page] !== 0 ? this.#own(page, there)',
    put: 'false ? this.#own(page, there)', judge: 'native-free/grain-bitmap' },
  { name: 'the copier holds one run of a piece and copies all', file: 'volume/copier.js', find: 'runs.slice(0, held).map(',
    put: 'runs.map(', judge: 'volume/copier-runs' },

  // Staging (staging.ts, excess-scan.ts)
  { name: 'an entry longer than a segment', file: 'store/staging-log.js', find: 'if (sizeBytes > this.#active.end - this.#active.start)',
    put: 'if (false)', judge: 'store/staging-log' },
  { name: 'a segment used again before all in it is marked', file: 'store/staging-log.js', find: 'if (next.last > this.#applied)',
    put: 'if (false)', judge: 'store/staging-log' },
  { name: 'appended to what was found', file: 'store/staging-log.js', find: 'if (this.#sealed || this.#gathered',
    put: 'if (this.#gathered', judge: 'store/staging-log' },
  { name: 'a stroke that was refused is believed', file: 'volume/staging.js', find: '() => this.#forget());',
    put: '() => undefined);', judge: 'volume/staging-late' },
  { name: 'a stroke read from the disk before it is there', file: 'store/staging-log.js', find: 'for (const stroke of [this.#gathered, this.#sent])',
    put: 'for (const stroke of [])', judge: 'store/staging-log' },
  { name: 'grains of refused strokes written to in place', file: 'volume/staging.js', find: 'if (this.#inDoubt)',
    put: 'if (false)', judge: 'volume/staging-late' },
  { name: 'what is staged written to in place', file: 'volume/staging.js', find: 'this.#core.chain.plain?.clear(entry.from, entry.to);', put: '', judge: 'volume/staging' },
  { name: 'a hole made of what is staged over zeros', file: 'volume/excess-scan.js', find: 'if (staging?.meets(run.start, run.end))', put: 'if (false)',
    judge: 'volume/staging-late' },

  // Mirrors (replication/)
  { name: 'a cycle ships what changed since the newest bookmark only', file: 'replication/cycle.js', find: 'const map = points.changed(volume, base, frozen);',
    put: 'const map = points.changed(volume, base && frozen.bookmark, frozen);', judge: 'replication/sim' },
  { name: 'the point is declared before it is shipped', file: 'replication/cycle.js', find: 'await session.begin(point, state.keep);',
    put: 'await session.begin(point, state.keep); await session.commit(point);', judge: 'replication/sim' },
  { name: 'the image is frozen before the bookmark', file: 'replication/source-points.js', judge: 'replication/sim',
    find: 'const bookmark = await this.bookmark(volume, cycle);\n', put: '\n' + 'const early = '
      + "await this.#make(volume, `${this.#nameOf(cycle)}-image`, 'snapshot'); const bookmark = await this.bookmark(volume, cycle);\n"
      + "return { cycle, bookmark, image: volume.points.open(early.name) };\n" },
  { name: 'a resync forgets what the target changed', file: 'replication/cycle.js', find: 'map.or(fitted(theirs, map.length));',
    put: ';', judge: 'replication/sim' },
  { name: 'the record is ahead of the target', file: 'replication/cycle.js', find: 'const { shipped, differing } = await deliver(parts, state, session, base, frozen);',
    put: 'await parts.put({ ...state, base: { point: frozen.bookmark.uuid, at: frozen.bookmark.createdAt } });'
      + 'const { shipped, differing } = await deliver(parts, state, session, base, frozen);', judge: 'replication/sim' },
  { name: 'a retry of the first copy takes the target for blank', file: 'replication/cycle.js', find: 'await parts.put({ ...state, blank: false });',
    put: ';', judge: 'replication/cycles' },
  { name: 'a split target shows half a cycle', file: 'replication/volume-target.js', find: 'await volume.restore({ from: declared.name });',
    put: ';', judge: 'replication/sim' },
  { name: 'the work of a split target is not kept', file: 'replication/volume-target.js', find: 'if (keep && isOwnWork)', put: 'if (false)', judge: 'replication/sim' },
  { name: 'the old point goes before the new one is declared', file: 'replication/volume-target.js', judge: 'crash/mirrors',
    find: "await volume.points.create({ name, kind: 'snapshot', labels, pins:",
    put: "await dropPoints(volume, declaredOf(volume, mirror.uuid), ownerOf(mirror.name)); await volume.points.create({ name, kind: 'snapshot', labels, pins:" },
  { name: 'points of failed cycles stay', file: 'replication/mirror.js', find: 'await this.#points.sweep(volume,', put: 'await Promise.resolve(', judge: 'replication/sim' },
  { name: 'an acknowledgement that was lost stops the mirror', file: 'replication/cycle.js', find: 'if (theirs && (!ours || theirs.seq > ours.seq))',
    put: 'if (false)', judge: 'replication/sim' },
  { name: 'zeros are not shipped', file: 'replication/ship.js', find: 'if (this.#options.blank)', put: 'if (true)', judge: 'replication/sim' },
]
