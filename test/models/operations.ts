/** Every operation of a sequence: when it makes sense, what it does to the model, what it does to the product. */
import { FAST, SLOW } from '../volume/lab.js'
import type { NaiveVolume } from './naive-volume.js'
import type { Subject } from './subject.js'

const GRAIN = 4096
/** Two and a half grains, one and a half, three and a quarter, and again. */
export const SIZES = [10_240, 6144, 13_312]
export const POINTS_MAX = 4

export interface Operation {
  readonly name: string
  possible(model: NaiveVolume): boolean
  /** `step` makes content and names unique. */
  model(model: NaiveVolume, step: number): void
  /** The model is as it was before. */
  run(subject: Subject, model: NaiveVolume, step: number): Promise<unknown>
}

const always = (): boolean => true
const room = ({ points }: NaiveVolume): boolean => points.length < POINTS_MAX

/** No byte is what it was, at no place what it is at the next. */
function data(step: number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let i = 0; i < length; i += 64) bytes.fill(1 + (step * 37 + i / 64 * 11) % 255, i, Math.min(length, i + 64))
  return bytes
}

function write(name: string, place: (size: number) => readonly [offset: number, end: number]): Operation {
  const at = ({ live }: NaiveVolume): readonly [number, number] => place(live.length)
  return {
    name,
    possible: always,
    model: (model, step) => {
      const [offset, end] = at(model)
      model.write(offset, data(step, end - offset))
    },
    run: async (subject, model, step) => {
      const [offset, end] = at(model)
      await subject.volume.write(offset, end - offset, data(step, end - offset), 0)
    },
  }
}

function remove(name: string, choose: (model: NaiveVolume) => number): Operation {
  return {
    name,
    possible: model => choose(model) >= 0 && model.points[choose(model)].held.length === 0,
    model: model => model.delete(model.points[choose(model)].name),
    run: (subject, model) => subject.deletePoint(model.points[choose(model)].name),
  }
}

function make(kind: 'snapshot' | 'bookmark'): Operation {
  return {
    name: kind,
    possible: room,
    model: (model, step) => model.create(`p${step}`, kind),
    run: (subject, _, step) => subject.volume.points.create({ name: `p${step}`, kind }),
  }
}

const snapshots = ({ points }: NaiveVolume): string[] => points.filter(({ kind }) => kind === 'snapshot').map(({ name }) => name)
const heirSize = ({ heir }: NaiveVolume): number => heir!.live.length

function restore(name: string, choose: (model: NaiveVolume) => string | undefined, slowly: boolean): Operation {
  return {
    name,
    possible: model => room(model) && choose(model) !== undefined && model.differs(choose(model)!),
    model: (model, step) => model.restore(choose(model)!, `p${step}`),
    run: async (subject, model, step) => {
      if (!await subject.restore(choose(model)!, `p${step}`, slowly)) throw new Error('a restore that changes something made no undo point')
    },
  }
}

const trimEnd = (from: number): Pick<Operation, 'possible' | 'model' | 'run'> => ({
  possible: always,
  model: model => model.trim(from, model.live.length - from),
  run: async (subject, model) => subject.volume.trim(from, model.live.length - from),
})

const nextSize = ({ live }: NaiveVolume): number => SIZES[(SIZES.indexOf(live.length) + 1) % SIZES.length]

export const OPERATIONS: readonly Operation[] = [
  write('write part', () => [512, 1536]),
  write('write grain', size => [GRAIN, Math.min(2 * GRAIN, size)]),
  write('write across', size => [5000, size - 100]),
  { name: 'trim end', ...trimEnd(GRAIN) },
  { name: 'trim all', ...trimEnd(0) },
  {
    name: 'zero across',
    possible: always,
    model: model => model.zero(1024, Math.min(model.live.length, 2 * GRAIN) - 1536),
    run: async (subject, model) => subject.volume.zero(1024, Math.min(model.live.length, 2 * GRAIN) - 1536, SLOW),
  },
  {
    name: 'zero grain',
    possible: always,
    model: model => model.zero(0, GRAIN),
    run: async subject => subject.volume.zero(0, GRAIN, FAST),
  },
  make('snapshot'),
  make('bookmark'),
  remove('delete oldest', ({ points }) => points.length > 0 ? 0 : -1),
  remove('delete newest', ({ points }) => points.length > 1 ? points.length - 1 : -1),
  remove('delete middle', ({ points }) => points.length > 2 ? 1 : -1),
  restore('restore oldest slowly', model => snapshots(model).at(0), true),
  restore('restore newest', model => snapshots(model).at(-1), false),
  {
    name: 'clone',
    possible: model => !model.heir && snapshots(model).length > 0,
    model: model => model.clone(snapshots(model).at(-1)!),
    run: (subject, model) => subject.clone(snapshots(model).at(-1)!),
  },
  {
    name: 'write clone',
    possible: model => model.heir !== undefined,
    model: (model, step) => model.heir!.write(700, data(step, heirSize(model) - 1400)),
    run: async (subject, model, step) => subject.heir!.write(700, heirSize(model) - 1400, data(step, heirSize(model) - 1400), 0),
  },
  {
    name: 'trim clone',
    possible: model => model.heir !== undefined,
    model: model => model.heir!.trim(0, GRAIN),
    run: async subject => subject.heir!.trim(0, GRAIN),
  },
  {
    name: 'delete held',
    possible: model => model.points.some(({ held }) => held.length > 0),
    model: () => undefined,
    run: async (subject, model) => {
      const { name } = model.points.find(({ held }) => held.length > 0)!
      const code = await subject.volume.points.delete(name).then(() => 'done', (error: { code?: string }) => error.code)
      if (code !== 'busy') throw new Error(`A21: to delete ${name}, which a clone needs, is ${code}`)
    },
  },
  {
    name: 'promote',
    possible: model => model.points.some(({ held }) => held.length > 0),
    model: model => model.promote(),
    run: subject => subject.promote(),
  },
  {
    name: 'resize',
    possible: always,
    model: model => model.resize(nextSize(model)),
    run: (subject, model) => subject.resize(nextSize(model)),
  },
  { name: 'kill', possible: always, model: model => model.crash(), run: subject => subject.kill() },
  { name: 'reopen', possible: always, model: () => undefined, run: subject => subject.reopen() },
  { name: 'background', possible: always, model: () => undefined, run: subject => subject.background() },
]
