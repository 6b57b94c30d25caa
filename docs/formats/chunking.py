#!/usr/bin/env python3
"""Checks the golden cuts of umbra from docs/formats/chunking.md alone: chunking.py chunking.txt"""
import hashlib, struct, sys
from blake3 import blake3

GEAR = [struct.unpack(">Q", hashlib.md5(bytes([v]) * 64).digest()[:8])[0] for v in range(256)]
MASKS = {65536: (0x0000D90703537000, 0x0000D90F03530000), 16384: (0x0000D90F03530000, 0x0000D90303530000)}

def first_chunk(data, at, end, low, avg, high):
    n = min(end - at, high)
    strict, loose = MASKS[avg]
    h = 0
    for i in range(low, n // 2 * 2):
        h = ((h << 1) + GEAR[data[at + i]]) & 0xFFFFFFFFFFFFFFFF
        if h & (strict if i < avg else loose) == 0:
            return i
    return n

def zero_runs(data, base, position, length):
    """Yields (start, end) in stream offsets for one contiguous piece."""
    at = run = 0
    while at < length:
        to = min(length, at + 4096 - (position + at) % 4096)
        zero = not any(data[base + at:base + to])
        run = run + to - at if zero else 0
        if run >= 65536 and (to == length or any(data[base + to:base + min(length, to + 4096)])):
            yield base + to - run, base + to
        at = to

def cuts(data, pieces, low, avg, high):
    runs, base = [], 0
    for position, length in pieces:
        runs += zero_runs(data, base, position, length)
        base += length
    at = 0
    for start, end in runs + [(base, base)]:
        while at < start:
            n = first_chunk(data, at, start, low, avg, high)
            yield f"data {n} {blake3(data[at:at + n]).hexdigest()}"
            at += n
        if end > start:
            yield f"zero {end - start}"
        at = end

data, pieces, want, found = None, [], [], []
for line in open(sys.argv[1]).read().splitlines():
    word, _, rest = line.partition(" ")
    if word == "input":
        length, _, name = rest.partition(" ")
        data = bytearray(blake3(name.encode()).digest(length=int(length)))
    elif word == "fill":
        start, length, byte = map(int, rest.split())
        data[start:start + length] = bytes([byte]) * length
    elif word == "piece":
        pieces.append(tuple(map(int, rest.split())))
    elif word == "params":
        algorithm, low, avg, high = map(int, rest.split())
        assert algorithm == 1
        found += cuts(bytes(data), pieces, low, avg, high)
    elif word in ("data", "zero"):
        want.append(line)
assert want and want == found, next((p for p in zip(want, found) if p[0] != p[1]), "lengths differ")
print(f"{len(want)} cuts agree")
