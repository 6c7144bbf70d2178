"""An incremental backup as anybody could write it with libnbd: reads only what a dirty bitmap names, into an older full copy.

    incremental.py URI CONTEXT IMAGE      prints the bytes it copied
"""
import sys
import nbd

PIECE = 1024 * 1024
uri, context, image = sys.argv[1:]
h = nbd.NBD()
h.add_meta_context(context)
h.connect_uri(uri)
if not h.can_meta_context(context):
    sys.exit(f"{context}: the server does not have it")

dirty = []


def noted(name, offset, entries, err):
    if name == context:
        for length, flags in zip(entries[0::2], entries[1::2]):
            dirty.append((offset, length, flags))
            offset += length


size = h.get_size()
at = 0
while at < size:
    dirty_before = len(dirty)
    h.block_status(min(size - at, 2**32 - 65536), at, noted)
    at = sum(length for _, length, _ in dirty)
    assert len(dirty) > dirty_before, "a reply that tells nothing"

copied = 0
with open(image, "r+b") as out:
    out.truncate(size)
    for offset, length, flags in dirty:
        end = min(size, offset + length)
        while flags & 1 and offset < end:
            piece = min(PIECE, end - offset)
            out.seek(offset)
            out.write(h.pread(piece, offset))
            offset += piece
            copied += piece
h.shutdown()
print(copied)
