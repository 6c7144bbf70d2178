"""churn.py FILE OPERATIONS SEED - random operations on one file, checked against an array in memory.

Writes, reads, truncations, punched holes, zeroed ranges, mapped writes, fsyncs, and reopening with the page cache
dropped, so that reads really come from the disk. Exits 1 at the first difference and says where.
"""
import ctypes, mmap, os, random, sys

PATH, OPERATIONS, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
LIMIT = 4 << 20
LONGEST = 96 << 10
KEEP_SIZE, PUNCH, ZERO = 1, 2, 16
ENOTSUP = 95
MIX = {"write": 40, "read": 30, "truncate": 4, "punch": 8, "zero": 5, "map": 6, "sync": 4, "reopen": 3}

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
r = random.Random(SEED)
fd = os.open(PATH, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
model = bytearray()


def differs(number, op, at, got, wanted):
    first = next((i for i in range(min(len(got), len(wanted))) if got[i] != wanted[i]), min(len(got), len(wanted)))
    sys.exit(f"seed {SEED}, operation {number} ({op}): byte {at + first} differs, {len(got)} bytes read, {len(wanted)} wanted")


def give_back(mode, at, n):
    if libc.fallocate(fd, mode | KEEP_SIZE, at, n) == 0:
        end = min(at + n, len(model))
        if end > at:
            model[at:end] = bytes(end - at)
    elif ctypes.get_errno() != ENOTSUP:  # not every filesystem has both
        raise OSError(ctypes.get_errno(), "fallocate")


for number in range(OPERATIONS):
    op = r.choices(list(MIX), MIX.values())[0]
    at, n = r.randrange(LIMIT - LONGEST), r.randrange(1, LONGEST)
    if op == "write":
        data = r.randbytes(n)
        os.pwrite(fd, data, at)
        model.extend(bytes(max(0, at + n - len(model))))
        model[at:at + n] = data
    elif op == "read":
        got, wanted = os.pread(fd, n, at), bytes(model[at:at + n])
        if got != wanted:
            differs(number, op, at, got, wanted)
    elif op == "truncate":
        os.ftruncate(fd, at)
        model = model[:at] + bytes(max(0, at - len(model)))
    elif op == "punch":
        give_back(PUNCH, at, n)
    elif op == "zero":
        give_back(ZERO, at, n)
    elif op == "map" and len(model) > 1:
        at = r.randrange(len(model) - 1)
        data = r.randbytes(min(n, len(model) - at))
        with mmap.mmap(fd, len(model)) as mapped:
            mapped[at:at + len(data)] = data
        model[at:at + len(data)] = data
    elif op == "sync":
        os.fsync(fd)
    elif op == "reopen":
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        fd = os.open(PATH, os.O_RDWR)
os.fsync(fd)
got = os.pread(fd, len(model) + 1, 0)
if got != bytes(model):
    differs(OPERATIONS, "end", 0, got, bytes(model))
