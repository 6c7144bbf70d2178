/**
 * Validation of control requests: zod schemas derived from the command table, one per method.
 *
 * Unknown keys are refused, defaults are filled in, sizes may come as bytes or as text (`"1GiB"`). What a value must be is
 * said once, in options.ts; zod walks the object and names the key that is wrong.
 */
import { z } from 'zod'
import { NbdeltaError } from '../device/errors.js'
import { COMMANDS, methodName } from './commands.js'
import { judge, wireName } from './options.js'
import type { Parameter } from './options.js'

/** `repeat` options: as many listeners or volumes as a command line can sensibly hold. */
const REPEAT_MAX = 256

const NUMERIC: ReadonlySet<string> = new Set(['size', 'rate', 'duration', 'int'])

/** Text or number, judged as the command line judges it. */
function judged(parameter: Parameter): z.ZodType {
  const raw = NUMERIC.has(parameter.type) ? z.union([z.string().max(64), z.int()]) : z.string()
  return raw.transform((value, context) => {
    try {
      return judge(parameter, String(value))
    } catch (error) {
      if (!(error instanceof NbdeltaError)) throw error
      context.addIssue({ code: 'custom', message: error.hint ? `${error.message} (${error.hint})` : error.message })
      return z.NEVER
    }
  })
}

function schemaOf(parameter: Parameter): z.ZodType {
  let schema: z.ZodType = parameter.type === 'bool' ? z.boolean() : judged(parameter)
  if (parameter.repeat) schema = z.array(schema).max(REPEAT_MAX)
  if (parameter.default !== undefined) return schema.default(parameter.default)
  return parameter.required ? schema : schema.optional()
}

const SCHEMAS = new Map(COMMANDS.filter(command => command.remote).map(command => [
  methodName(command),
  z.strictObject(Object.fromEntries([...command.positional, ...command.options].filter(parameter => !parameter.local)
    .map(parameter => [wireName(parameter.name), schemaOf(parameter)]))),
]))

export function isMethod(method: string): boolean { return SCHEMAS.has(method) }

/**
 * Parameters of a request, judged and complete.
 * @throws NbdeltaError bad-argument, naming the first thing that is wrong
 */
export function validate(method: string, params: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const parsed = SCHEMAS.get(method)!.safeParse(params)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  const where = issue.path.join('.')
  throw new NbdeltaError('bad-argument', where ? `${method}: ${where}: ${issue.message}` : `${method}: ${issue.message}`)
}
