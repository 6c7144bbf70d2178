// buffer-crc32 1.0.0 ships types that NodeNext cannot read; only native-free/checksum.ts imports it.
declare module 'buffer-crc32' {
  interface Crc32 {
    (data: Buffer, previous?: Buffer | number): Buffer
    unsigned(data: Buffer, previous?: Buffer | number): number
  }
  const crc32: Crc32
  export default crc32
}
