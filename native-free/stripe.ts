/**
 * Stripe geometry: where a logical byte of a striped set with rotating parity lies (RAID5, left-symmetric: parity moves
 * one member to the left each stripe, and a stripe's data begins right after its parity).
 *
 *             member 0   1   2   3
 *   stripe 0:        0   1   2   P        numbers are logical chunks
 *   stripe 1:        4   5   P   3
 *   stripe 2:        8   P   6   7
 *   stripe 3:        P   9  10  11
 *
 * So any run of `members` chunks touches every member. Pure arithmetic on Numbers below 2^53.
 */
export interface StripeGeometry {
  /** At least 3; one member's worth is parity. */
  readonly members: number
  /** Bytes that lie together on one member. */
  readonly chunkBytes: number
}

export interface StripePlace {
  readonly stripe: number
  readonly member: number
  /** The member that holds this stripe's parity. */
  readonly parity: number
  /** Byte offset on the member; the parity of this byte lies at the same offset of the parity member. */
  readonly offset: number
  /** Bytes from here to the end of the chunk. */
  readonly length: number
}

/** Logical bytes that fit on members of `memberBytes` each; whole stripes only. */
export function stripedBytes({ members, chunkBytes }: StripeGeometry, memberBytes: number): number {
  return Math.floor(memberBytes / chunkBytes) * chunkBytes * (members - 1)
}

/** The member that holds the parity of a stripe. */
export function parityMember({ members }: StripeGeometry, stripe: number): number {
  return members - 1 - stripe % members
}

/** Where logical byte `offset` lies. */
export function placeOf(geometry: StripeGeometry, offset: number): StripePlace {
  const { members, chunkBytes } = geometry
  const chunk = Math.floor(offset / chunkBytes)
  const inside = offset - chunk * chunkBytes
  const stripe = Math.floor(chunk / (members - 1))
  const index = chunk - stripe * (members - 1)
  const parity = parityMember(geometry, stripe)
  const member = (parity + 1 + index) % members
  return { stripe, member, parity, offset: stripe * chunkBytes + inside, length: chunkBytes - inside }
}

/** The logical byte that a member's byte `offset` holds; undefined where it holds parity. */
export function logicalOf(geometry: StripeGeometry, member: number, offset: number): number | undefined {
  const { members, chunkBytes } = geometry
  const stripe = Math.floor(offset / chunkBytes)
  const parity = parityMember(geometry, stripe)
  if (member === parity) return undefined
  const index = (member - parity - 1 + members) % members
  return (stripe * (members - 1) + index) * chunkBytes + offset - stripe * chunkBytes
}
