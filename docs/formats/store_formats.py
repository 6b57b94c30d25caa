#!/usr/bin/env python3
"""Checks the golden bytes of a store's files without any code of umbra:
store_formats.py testdata/formats/v1/store.txt
Rules: store.md, pack.md, log.md, nodes.md beside this file. With --dump it prints every field.
A pack of a real store is checked by: store_formats.py --pack FILE, with the parity beside it. Needs: pip install blake3"""
import os
import struct
import sys
from blake3 import blake3

KINDS = ["chunk", "map page", "map node", "directory node", "extent list", "xattrs", "manifest"]
DUMP = "--dump" in sys.argv


def show(*what):
    if DUMP:
        print(*what)


def hash_of(data):
    return blake3(data).digest()


def references(data, count):
    assert len(data) == 33 * count
    return [(data[i], data[i + 1:i + 33]) for i in range(0, len(data), 33)]


def object_id(kind, refs, body):
    if kind == 0:
        return hash_of(body)
    listed = struct.pack("<I", len(refs)) + b"".join(bytes([k]) + i for k, i in refs)
    return blake3(listed + body, derive_key_context="umbra 1 " + KINDS[kind]).digest()


def inflate(frame, length):
    """Opens a zstd frame of one raw block (RFC 8878, 3.1.1), which is all that the golden file has;
    returns None for any other frame."""
    if frame[:5] != b"\x28\xb5\x2f\xfd\x20" or frame[5] != length:
        return None
    block = int.from_bytes(frame[6:9], "little")
    assert block & 7 == 1 and block >> 3 == length == len(frame) - 9
    return frame[9:]


def record(data, at, store):
    """Checks the record at `at`; returns its end and its entry in the table of contents."""
    head = data[at:at + 120]
    assert head[:8] == b"UMBRAREC"
    version, kind, codec, cipher, flags, members = struct.unpack_from("<HBBBBH", head, 8)
    domain, epoch = struct.unpack_from("<II", head, 16)
    plain, stored, count, reserved = struct.unpack_from("<IIII", head, 104)
    assert (version, flags, members, reserved) == (1, 0, 1, 0) and kind < 7 and codec < 2
    assert head[24:40] == store, "another store"
    end = at + 120 + 33 * count + stored
    whole = data[at:end]
    assert len(whole) == end - at, "cut short"
    assert head[72:104] == hash_of(whole[:72] + whole[104:]), "check"
    refs = references(whole[120:120 + 33 * count], count)
    body = whole[120 + 33 * count:]
    if cipher == 0:
        body = inflate(body, plain) if codec else body
        if body is not None:
            assert len(body) == plain and object_id(kind, refs, body) == head[40:72], "id"
    show(" record", at, KINDS[kind], head[40:72].hex(), "refs", count, "stored", stored)
    entry = struct.pack("<Q", at) + head[40:72] + bytes([kind, codec, cipher, 0])
    entry += struct.pack("<IIII", domain, plain, stored, count)
    return end, entry + whole[120:120 + 33 * count]


def pack(data):
    assert data[:8] == b"UMBRPACK" and hash_of(data[:96]) == data[96:128]
    version, kind, parity, length = struct.unpack_from("<HBBI", data, 8)
    assert (version, parity, length) == (1, 0, 128) and kind < 2
    store, name = data[16:32], data[32:48]
    generation, group, epoch, number, rest = struct.unpack_from("<Q16sQQ8s", data, 48)
    assert group == bytes(16) and rest == bytes(8)
    show("pack", name.hex(), "kind", kind, "generation", generation, "epoch", epoch, "number", number)
    assert data[-8:] == b"UMBRAEND" and data[-40:-8] == hash_of(data[-int.from_bytes(data[-48:-40], "little"):-40])
    table = data[-int.from_bytes(data[-48:-40], "little"):]
    at, entries = 128, []
    while data[at:at + 8] == b"UMBRAREC":
        at, entry = record(data, at, store)
        entries.append(entry)
    assert at == len(data) - len(table), "the table follows the last record"
    assert table[:8] == b"UMBRAFTR"
    version, flags, count = struct.unpack_from("<HHI", table, 8)
    covers, reserved = struct.unpack_from("<QQ", table, 48)
    assert (version, flags, count, covers, reserved) == (1, 0, len(entries), at, 0)
    assert table[16:32] == store and table[32:48] == name
    assert table[64:-48] == b"".join(entries), "the table is that of the records"


def parity(data, pack=None):
    """Checks a parity object, and the shards of its pack where that is given."""
    magic, version, flags, length, store, name, pack_len, shard, count, recovery = struct.unpack_from(
        "<8sHHI16s16sQIHH", data)
    assert (magic, version, flags) == (b"UMBRAPAR", 1, 0)
    assert length == 64 + 32 * (count + recovery) + 32
    assert data[length - 32:length] == hash_of(data[:length - 32])
    assert shard % 64 == 0 and count == -(-pack_len // shard)
    hashes = [data[at:at + 32] for at in range(64, length - 32, 32)]
    assert len(data) == length + recovery * shard
    for number, expected in enumerate(hashes[count:]):
        at = length + number * shard
        assert hash_of(data[at:at + shard]) == expected, "recovery shard %d" % number
    show("parity of", name.hex(), "of", pack_len, "bytes:", count, "shards of", shard, "and", recovery)
    if pack is not None:
        assert len(pack) == pack_len
        for number, expected in enumerate(hashes[:count]):
            piece = pack[number * shard:(number + 1) * shard].ljust(shard, b"\0")
            assert hash_of(piece) == expected, "data shard %d" % number


def golden_parity(data):
    parity(data, blake3(b"umbra golden parity").digest(length=10000))


def log(data):
    assert data[:8] == b"UMBRALOG" and hash_of(data[:96]) == data[96:128]
    version, reserved, length, store, number, sequence, previous, epoch, created = struct.unpack_from(
        "<HHI16sQQ32sQq", data, 8)
    assert (version, reserved, length) == (1, 0, 128)
    show("log segment", number, "after entry", sequence, "epoch", epoch, "created", created)
    at = 128
    while at < len(data):
        magic, version, reserved, length, found, time = struct.unpack_from("<8sHHIQq", data, at)
        assert (magic, version, reserved, found) == (b"UMBRAENT", 1, 0, sequence + 1)
        assert data[at + 32:at + 64] == previous, "the chain"
        payload = data[at + 96:at + 96 + length]
        assert len(payload) == length
        previous, sequence = data[at + 64:at + 96], found
        assert previous == hash_of(data[at:at + 64] + payload), "check"
        kind = payload[3] if payload[2] == 0x18 else payload[2]
        assert payload[0] >> 5 == 5 and payload[1] == 0, "a map with key 0"
        assert 1 <= kind <= 13 or kind in (20, 21, 22, 24, 25), "an entry of a known kind"
        show(" entry", sequence, "time", time, "kind", kind, payload.hex())
        at += 96 + length


def store_format(data):
    text, check = data.decode().rsplit("check ", 1)
    assert check == hash_of(text.encode()).hex() + "\n"
    lines = text.splitlines()
    assert lines[0] == "UMBRASTO 1" and len(lines) == 6
    for line, name in zip(lines[1:], ["id", "created", "incompatible", "read-compatible", "compatible"]):
        assert line.split(" ")[0] == name
        show(line)


def lock(data):
    magic, version, ended, pid, epoch, since = struct.unpack_from("<8sHHIQq", data)
    assert (magic, version, len(data)) == (b"UMBRALCK", 1, 64) and data[32:] == hash_of(data[:32])
    show("lock", "ended" if ended else "held", "pid", pid, "epoch", epoch, "since", since)


if __name__ == "__main__":
    path = [argument for argument in sys.argv[1:] if not argument.startswith("--")][0]
    if "--pack" in sys.argv:
        pack(open(path, "rb").read())
        if os.path.exists(path + ".parity"):
            parity(open(path + ".parity", "rb").read(), open(path, "rb").read())
    else:
        checks, seen = {"format": store_format, "lock": lock, "pack": pack, "log": log}, set()
        if path.endswith("parity.txt"):
            checks = {"parity": golden_parity}
        if path.endswith("quarantine.txt"):
            checks = {"log": log}
        for line in open(path):
            if not line.startswith("#"):
                name, digits = line.split()
                checks[name](bytes.fromhex(digits))
                seen.add(name)
        assert seen == set(checks), "every format"
    print("ok")
