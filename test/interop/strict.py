"""strict.py URI SEED - libnbd in its strictest mode against a server that has nothing to hide.

Every command with every flag it may carry, structured and simple replies, unaligned ranges, chunk coverage of
structured reads, block status against what was written; then, with strict mode off, what a careless client would
send, and the errno that PROTOCOL section 9 wants for it. Prints one line per check, `ok - ...` or `not ok - ...`.
The export is overwritten; it needs 64 MiB. Written against libnbd 1.14 and newer.
"""
import errno, random, sys
import nbd

URI, SEED = sys.argv[1], int(sys.argv[2])
MIB = 1 << 20


def check(title, good, detail=""):
    print(f"{'ok' if good else 'not ok'} - {title}{'' if good else ': ' + str(detail)}", flush=True)


EXTENDED = hasattr(nbd.NBD, "set_request_extended_headers")


def opened(style="structured", strict=nbd.STRICT_MASK, context=True):
    h = nbd.NBD()
    h.set_strict_mode(strict)
    h.set_request_structured_replies(style != "simple")
    if EXTENDED:
        h.set_request_extended_headers(style == "extended")
    if context:
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(URI)
    return h


def refused(title, want, call):
    try:
        call()
        check(title, False, "the server accepted it")
    except nbd.Error as e:
        check(title, e.errnum == want, f"errno {e.errno}, wanted {errno.errorcode[want]} ({e.string})")


def every_command(h, label, structured):
    for fua in (0, nbd.CMD_FLAG_FUA):
        name = f"{label}, {'FUA' if fua else 'plain'}"
        h.pwrite(b"a" * 70000, 4097, fua)
        check(f"{name}: WRITE is read back", h.pread(70000, 4097) == b"a" * 70000)
        h.zero(8192, 8192, fua)
        check(f"{name}: WRITE_ZEROES reads as zeros", h.pread(8192, 8192) == bytes(8192) and h.pread(1, 8191) == b"a")
        h.zero(100, 5001, fua | nbd.CMD_FLAG_NO_HOLE)
        check(f"{name}: NO_HOLE, unaligned, touches only its range", h.pread(102, 5000) == b"a" + bytes(100) + b"a")
        h.trim(8192, 20480, fua)
        check(f"{name}: TRIM leaves its neighbours", h.pread(1, 20479) + h.pread(1, 28672) == b"aa")
        try:
            h.zero(1 << 16, 1 << 20, fua | nbd.CMD_FLAG_FAST_ZERO)
            check(f"{name}: FAST_ZERO reads as zeros", h.pread(1 << 16, 1 << 20) == bytes(1 << 16))
        except nbd.Error as e:
            check(f"{name}: FAST_ZERO is fast or ENOTSUP", e.errnum == errno.ENOTSUP, e.string)
    h.flush()
    h.cache(MIB, 0)
    check(f"{label}: FLUSH and CACHE succeed", True)
    if structured:
        check(f"{label}: R3 DF read in one piece", one_piece(h, 65536, 3))


def one_piece(h, length, offset):
    pieces = []
    h.pread_structured(length, offset, lambda buf, at, status, error: pieces.append((at, len(buf))) and 0, nbd.CMD_FLAG_DF)
    return pieces == [(offset, length)]


def chunks_cover(h):
    h.zero(8 * MIB, 8 * MIB)
    for offset in range(8 * MIB, 16 * MIB, MIB):
        h.pwrite(b"c" * 12288, offset + 40960)
    pieces = []

    def chunk(buf, at, status, error):
        pieces.append((at, len(buf), status))
        return 0
    data = h.pread_structured(8 * MIB - 5, 8 * MIB + 3, chunk)
    at, whole = 8 * MIB + 3, True
    for start, length, _ in sorted(pieces):
        whole, at = whole and start == at and length > 0, start + length
    check("R2: chunks cover the read exactly", whole and at == 16 * MIB - 2, pieces[:20])
    check("R2: holes travel as holes", any(status == nbd.READ_HOLE for _, _, status in pieces))
    check("R2: the content is right", data.count(b"c") == 8 * 12288 and data[40957:40958] == b"c")


def status_of(h, length, offset, flags=0):
    found = []

    def extent(context, at, entries, error):
        found.extend(zip(entries[0::2], entries[1::2]))
        return 0
    h.block_status(length, offset, extent, flags)
    return found


def block_status(h):
    h.zero(4 * MIB, 16 * MIB)
    h.pwrite(b"d" * 65536, 17 * MIB)
    found = status_of(h, 4 * MIB, 16 * MIB)
    check("B1: block status equals what was written",
          found[:2] == [(MIB, 3), (65536, 0)] and found[2][1] == 3 and found[2][0] >= 3 * MIB - 65536, found)
    one = status_of(h, 2 * MIB, 16 * MIB, nbd.CMD_FLAG_REQ_ONE)
    check("B1: REQ_ONE gives one extent inside the range", one == [(MIB, 3)], one)
    last = status_of(h, 4096, h.get_size() - 4096)
    check("B1: status never passes the end", sum(length for length, _ in last) == 4096, last)
    h.zero(65536, 18 * MIB, nbd.CMD_FLAG_NO_HOLE)
    check("C9: what was zeroed with NO_HOLE is no hole", not status_of(h, 65536, 18 * MIB)[0][1] & nbd.STATE_HOLE)


def whole_volume(h):
    """E7: effects longer than 32 bits in one request."""
    size, found = h.get_size(), []
    h.pwrite(b"e" * 4096, size - 4096)
    h.zero(size, 0)
    check(f"E7: {size} bytes zeroed by one request", h.pread(4096, size - 4096) == bytes(4096))
    h.pwrite(b"e" * 4096, size - 8192)
    h.block_status_64(size, 0, lambda context, at, entries, error: found.extend(entries) and 0)
    check("E6: one status reply tells of the whole volume", found == [(size - 8192, 3), (4096, 0), (4096, 3)], found)
    h.trim(size, 0)
    h.cache(size, 0)
    check("E7: and trimmed, and cached, by one request each", h.pread(4096, size - 8192) == bytes(4096))


def random_against_model(h, rounds):
    """Unaligned writes, zeroes and trims against an array; a trimmed byte may keep its value or be zero."""
    r, base, size = random.Random(SEED), 24 * MIB, 8 * MIB
    model, wild = bytearray(size), bytearray(size)
    h.zero(size, base)
    for number in range(rounds):
        at = r.randrange(size - 1)
        n = min(size - at, r.choice((1, 511, 512, 4096, 4097, r.randrange(1, 300000))))
        op = r.choice(("write", "write", "zero", "trim", "read"))
        fua = r.choice((0, 0, nbd.CMD_FLAG_FUA))
        if op == "write":
            data = r.randbytes(n)
            h.pwrite(data, base + at, fua)
            model[at:at + n], wild[at:at + n] = data, bytes(n)
        elif op == "zero":
            h.zero(n, base + at, fua | r.choice((0, nbd.CMD_FLAG_NO_HOLE)))
            model[at:at + n], wild[at:at + n] = bytes(n), bytes(n)
        elif op == "trim":
            h.trim(n, base + at, fua)
            wild[at:at + n] = b"\1" * n
        got = h.pread(n, base + at)
        for i in range(n):
            if got[i] != model[at + i] and not (wild[at + i] and got[i] == 0):
                return check(f"random commands against a model (seed {SEED})", False, f"round {number} {op} at {at}+{n}, byte {i}")
    check(f"{rounds} random commands against a model (seed {SEED})", True)


def careless(h):
    size = h.get_size()
    refused("section 9: WRITE past the end is ENOSPC", errno.ENOSPC, lambda: h.pwrite(b"x" * 4096, size - 1))
    refused("section 9: WRITE_ZEROES past the end is ENOSPC", errno.ENOSPC, lambda: h.zero(4096, size))
    refused("section 9: READ past the end is EINVAL", errno.EINVAL, lambda: h.pread(4096, size - 1))
    refused("section 9: TRIM past the end is EINVAL", errno.EINVAL, lambda: h.trim(4096, size - 1))
    refused("section 9: CACHE past the end is EINVAL", errno.EINVAL, lambda: h.cache(4096, size - 1))
    refused("section 9: status past the end is EINVAL", errno.EINVAL, lambda: status_of(h, 4096, size))
    refused("X2: an offset near 2^63 does not wrap", errno.EINVAL, lambda: h.pread(4096, (1 << 63) - 4096))
    refused("F2: an unknown flag is EINVAL", errno.EINVAL, lambda: h.pread(512, 0, 1 << 14))
    refused("F2: NO_HOLE on WRITE is EINVAL, its payload consumed", errno.EINVAL, lambda: h.pwrite(b"x" * 70000, 0, nbd.CMD_FLAG_NO_HOLE))
    refused("F2: FAST_ZERO on TRIM is EINVAL", errno.EINVAL, lambda: h.trim(4096, 0, nbd.CMD_FLAG_FAST_ZERO))
    refused("R5: zero-length status is EINVAL", errno.EINVAL, lambda: status_of(h, 0, 0))
    h.pwrite(b"", 0)
    h.trim(0, 0)
    h.zero(0, 0)
    h.cache(0, 0)
    check("R5: zero-length commands are no-ops", True)
    h.flush(nbd.CMD_FLAG_FUA)
    h.pread(512, 0, nbd.CMD_FLAG_FUA)
    check("F1: FUA is accepted on every command", True)
    check("Z4: a payload of 40 MiB is served", h.pwrite(b"p" * (40 * MIB), 0) is None and h.pread(4, 40 * MIB - 2)[:2] == b"pp")
    refused("R4: a READ above the maximum is EINVAL", errno.EINVAL, lambda: h.pread(40 * MIB, 0))
    h.pread(512, 0)
    check("the session is alive after all that", True)


def options():
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(URI)
    names = []
    h.opt_list(lambda name, description: names.append(name) and 0)
    h.opt_list(lambda name, description: names.append(name) and 0)
    check("O8: LIST twice", len(names) >= 2 and names[: len(names) // 2] == names[len(names) // 2:], names)
    contexts = []
    h.add_meta_context("base:")
    h.add_meta_context("qemu:")
    h.opt_list_meta_context(lambda name: contexts.append(name) and 0)
    both = ["base:allocation", "qemu:allocation-depth"]
    check("C3, C6, C10: LIST_META_CONTEXT base: and qemu: finds what a volume without points has", contexts == both, contexts)
    h.clear_meta_contexts()
    h.add_meta_context("x-nobody:knows")
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.set_full_info(True)
    h.opt_info()
    first = (h.get_size(), h.get_canonical_export_name(), h.can_multi_conn(), h.get_block_size(nbd.SIZE_MAXIMUM))
    h.opt_go()
    again = (h.get_size(), h.get_canonical_export_name(), h.can_multi_conn(), h.get_block_size(nbd.SIZE_MAXIMUM))
    check("I7: INFO and GO agree", first == again, (first, again))
    check("C2: an unknown context is ignored, a known one kept", h.can_meta_context("base:allocation") and not h.can_meta_context("x-nobody:knows"))
    h.shutdown()
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(URI)
    h.opt_abort()
    check("ABORT ends the session", h.aio_is_closed())


def in_flight_at_disconnect():
    h = opened("simple", context=False)
    done = []
    buffers = [nbd.Buffer.from_bytearray(bytearray(b"f" * 65536)) for _ in range(64)]
    for i, buffer in enumerate(buffers):
        h.aio_pwrite(buffer, 40 * MIB + i * 65536, lambda error: done.append(error.value if hasattr(error, 'value') else error) or 1)
    h.aio_disconnect(0)
    try:
        while not (h.aio_is_closed() or h.aio_is_dead()):
            h.poll(10000)
    except nbd.Error as e:
        print(f"# after DISC: {e.string}")
    check("S1: all 64 writes in flight at DISC are answered", done == [0] * 64, done)
    h = opened()
    check("S1: and they are there", h.pread(4 * MIB, 40 * MIB) == b"f" * (4 * MIB))
    h.shutdown()


for style in ("extended", "structured", "simple") if EXTENDED else ("structured", "simple"):
    h = opened(style, context=style != "simple")
    check(f"{style} replies negotiated", h.get_structured_replies_negotiated() == (style != "simple")
          and (not EXTENDED or h.get_extended_headers_negotiated() == (style == "extended")))
    every_command(h, style, style != "simple")
    if style != "simple":
        chunks_cover(h)
        block_status(h)
    if style == "extended":
        whole_volume(h)
    random_against_model(h, 400)
    h.shutdown()
options()
for style in ("extended", "structured") if EXTENDED else ("structured",):
    h = opened(style, strict=0)
    careless(h)
    h.shutdown()
h = opened("simple", strict=0, context=False)
refused("R3: DF without structured replies is EINVAL", errno.EINVAL, lambda: h.pread(512, 0, nbd.CMD_FLAG_DF))
refused("B4: status without a context is EINVAL", errno.EINVAL, lambda: status_of(h, 4096, 0))
h.shutdown()
in_flight_at_disconnect()
