// Stripe geometry against a table drawn chunk by chunk, there and back, and above 2^32.
import t from 'tap'
import { logicalOf, parityMember, placeOf, stripedBytes, type StripeGeometry, type StripePlace } from '../../native-free/index.js'

const CHUNK = 512

/** table[stripe][member] = logical chunk or 'P', laid out by walking: parity moves left, data follows it, around the corner. */
function slowTable(members: number, stripes: number): (number | 'P')[][] {
  const table: (number | 'P')[][] = []
  let next = 0
  let parity = members - 1
  for (let stripe = 0; stripe < stripes; stripe++) {
    const row = new Array<number | 'P'>(members)
    row[parity] = 'P'
    for (let step = 1; step < members; step++) row[(parity + step) % members] = next++
    table.push(row)
    parity = parity === 0 ? members - 1 : parity - 1
  }
  return table
}

t.test('the drawing in the header', async t => {
  t.strictSame(slowTable(4, 4), [[0, 1, 2, 'P'], [4, 5, 'P', 3], [8, 'P', 6, 7], ['P', 9, 10, 11]])
})

for (const members of [3, 4, 5, 8]) {
  t.test(`${members} members: every byte goes where the table says, and back`, async t => {
    const geometry: StripeGeometry = { members, chunkBytes: CHUNK }
    const table = slowTable(members, 3 * members)
    for (const [stripe, row] of table.entries()) {
      t.equal(parityMember(geometry, stripe), row.indexOf('P'))
      for (const [member, chunk] of row.entries()) {
        for (const inside of [0, 1, CHUNK - 1]) {
          const offset = stripe * CHUNK + inside
          if (chunk === 'P') { t.equal(logicalOf(geometry, member, offset), undefined); continue }
          const logical = chunk * CHUNK + inside
          const place: StripePlace = { stripe, member, parity: row.indexOf('P'), offset, length: CHUNK - inside }
          t.strictSame(placeOf(geometry, logical), place)
          t.equal(logicalOf(geometry, member, offset), logical)
        }
      }
    }
  })
}

t.test('far out', async t => {
  const geometry = { members: 5, chunkBytes: 65536 }
  for (const offset of [2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 45 + 12345, 2 ** 52]) {
    const place = placeOf(geometry, offset)
    t.equal(logicalOf(geometry, place.member, place.offset), offset)
    t.not(place.member, place.parity)
  }
  t.equal(stripedBytes(geometry, 2 ** 40 + 65535), 2 ** 42)
})
