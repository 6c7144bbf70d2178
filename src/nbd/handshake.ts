/**
 * Handshake: client flags and options out of the inbox, one after the other, answers into the socket.
 *
 *   flags --> header --> data ---> answer --> header ...      an option that is too long: header --> discard --> answer
 *
 * Limits: options per handshake, buffered bytes per option; a longer option is passed over without being kept (O2, O3).
 */
import { OPTION, REPLY, SIZE } from '../../native-free/nbd/constants.js'
import { decodeOptionHeader } from '../../native-free/nbd/handshake.js'
import { refuse } from './negotiation.js'
import type { OptionHeader } from '../../native-free/nbd/handshake.js'
import type { Inbox } from './inbox.js'
import type { ServerLimits } from './limits.js'
import type { Answer, Negotiation } from './negotiation.js'

/** 'dry': needs more bytes. A reason: hard drop, for the log. Else the answer to one option. */
type HandshakeStep = 'dry' | { readonly dropped: string } | (Answer & { readonly option: number })

const OPTION_NAMES: ReadonlyMap<number, string> = new Map(Object.entries(OPTION).map(([name, option]) => [option, name]))
export function optionName(option: number): string { return OPTION_NAMES.get(option) ?? `option ${option}` }

export class Handshake {
  readonly #inbox: Inbox
  readonly #negotiation: Negotiation
  readonly #limits: ServerLimits
  #greeted = false
  #options = 0
  #header: OptionHeader | undefined
  #discardBytes = 0

  constructor(inbox: Inbox, negotiation: Negotiation, limits: ServerLimits) {
    this.#inbox = inbox
    this.#negotiation = negotiation
    this.#limits = limits
  }

  /** The next whole option, answered. */
  next(draining: boolean): HandshakeStep {
    const inbox = this.#inbox
    if (!this.#greeted) {
      if (inbox.available < SIZE.clientFlags) return 'dry'
      const flags = inbox.slab.buffer.readUInt32BE(inbox.pos)
      inbox.pos += SIZE.clientFlags
      this.#greeted = true
      if (!this.#negotiation.acceptFlags(flags)) return { dropped: `client flags 0x${flags.toString(16)} were not offered` }
    }
    if (this.#header === undefined) {
      if (inbox.available < SIZE.optionHeader) return 'dry'
      const dropped = this.#readHeader()
      if (dropped !== undefined) return { dropped }
    }
    const header = this.#header!
    const tooLong = this.#discardBytes > 0 || header.length > this.#capBytes(header.option)
    return tooLong ? this.#discard(header) : this.#take(header, draining)
  }

  #readHeader(): string | undefined {
    const inbox = this.#inbox
    const header = decodeOptionHeader(inbox.slab.buffer, inbox.pos)
    if (header === undefined) return 'an option does not begin with the magic number'
    if (header.length > this.#limits.optionDropBytes) return `an option of ${header.length} bytes`
    if (++this.#options > this.#limits.options) return `more than ${this.#limits.options} options`
    if (!this.#negotiation.permits(header.option)) return `${optionName(header.option)} without fixed newstyle`
    const endless = header.option === OPTION.exportName && header.length > this.#capBytes(header.option)
    if (endless) return 'an export name that is too long'
    inbox.pos += SIZE.optionHeader
    this.#header = header
    return undefined
  }

  #capBytes(option: number): number {
    const meta = option === OPTION.listMetaContext || option === OPTION.setMetaContext
    return meta ? this.#limits.metaOptionBytes : this.#limits.optionBytes
  }

  #take(header: OptionHeader, draining: boolean): HandshakeStep {
    const inbox = this.#inbox
    if (inbox.available < header.length) {
      inbox.need(header.length)
      return inbox.starved ? this.#discard(header) : 'dry'
    }
    inbox.need(0)
    const data = inbox.slab.buffer.subarray(inbox.pos, inbox.pos + header.length)
    inbox.pos += header.length
    this.#header = undefined
    return { ...this.#negotiation.answer(header.option, data, draining), option: header.option }
  }

  /** Reads past an option that is not kept; the answer follows its last byte, so that the session stays in step. */
  #discard(header: OptionHeader): HandshakeStep {
    const inbox = this.#inbox
    if (this.#discardBytes === 0) this.#discardBytes = header.length
    const count = Math.min(inbox.available, this.#discardBytes)
    inbox.pos += count
    this.#discardBytes -= count
    if (this.#discardBytes > 0) return 'dry'
    inbox.need(0)
    this.#header = undefined
    if (header.option === OPTION.setMetaContext) this.#negotiation.select([], [])
    const known = optionName(header.option) in OPTION
    const answer = known ? refuse(header.option, REPLY.errTooBig, 'this option is longer than this server takes')
      : refuse(header.option, REPLY.errUnsup, 'this option is not known here')
    return { ...answer, option: header.option }
  }
}
