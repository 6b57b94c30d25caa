#!/usr/bin/env python3
"""Checks golden nodes and receipts without any code of umbra: nodes.py testdata/formats/v1/nodes.txt
Ids, the one encoding, every reference; the map covers the disk once and adds up to the manifest's
counts; directories are sorted and cut where the names say. Rules: the pages beside this file.
With --dump it prints every node. Needs: pip install blake3"""
import sys
from blake3 import blake3

WINDOW, KINDS = 16 << 20, ["chunk", "map-page", "map-node", "directory-node", "extent-list", "xattrs", "manifest"]


def cbor(data, at):
    """Reads one deterministic item at `at`: returns it and where it ends."""
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        assert info in (20, 21), "only booleans"
        return info == 21, at
    if info >= 24:
        size = {24: 1, 25: 2, 26: 4, 27: 8}[info]
        value = int.from_bytes(data[at:at + size], "big")
        assert value >= {1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[size], "not shortest"
        at += size
    else:
        value = info
    if major == 0:
        return value, at
    if major == 1:
        return -1 - value, at
    if major in (2, 3):
        item = data[at:at + value]
        assert len(item) == value, "cut short"
        return (item.decode() if major == 3 else item), at + value
    if major == 4:
        items = []
        for _ in range(value):
            item, at = cbor(data, at)
            items.append(item)
        return items, at
    assert major == 5, "no tags"
    fields = {}
    for _ in range(value):
        key, at = cbor(data, at)
        assert not fields or key > max(fields), "keys ascend"
        fields[key], at = cbor(data, at)
    return fields, at


def whole(data):
    item, end = cbor(data, 0)
    assert end == len(data), "bytes follow the end"
    return item


def varints(data):
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            assert byte or shift == 7, "not shortest"
            yield value
            value = shift = 0
    assert shift == 0, "cut short"


def page(node, length):
    """The runs of a page: (kind, length, chunk, offset)."""
    refs, (version, page_length, data) = node
    assert version == 1 and page_length == length
    numbers, met, runs = varints(data), 0, []
    for code in numbers:
        kind, size, number, offset = code & 7, code >> 3, None, 0
        if kind == 0:
            kind, number = 1, met
        elif kind == 1:
            number, offset = next(numbers), next(numbers)
            assert (number, offset) != (met, 0), "the long way"
        if number is not None:
            assert number <= met, "order of first use"
            met += number == met
        if runs and runs[-1][0] == kind:
            last = runs[-1]
            assert kind == 1 and (last[2], last[3] + last[1]) != (number, offset), "not merged"
        assert size
        runs.append((kind, size, number, offset))
    assert met == len(refs) and sum(run[1] for run in runs) == length
    return runs


def walk_map(nodes, node, level, start, end, counts):
    """Adds up the bytes of each kind below a map node."""
    refs, (version, found, *entries) = node
    assert version == 1 and found == level
    step = WINDOW * 256 ** (level - 1)
    assert len(entries) == -(-(end - start) // step)
    for index, entry in enumerate(entries):
        first = start + index * step
        last = min(first + step, end)
        if level == 1 and isinstance(entry, list):
            assert len(entry[0]) == 32
            for halvings, number in zip(entry[1::2], entry[2::2]):
                size = min(WINDOW >> halvings, last - first)
                for kind, length, chunk, offset in page(nodes[refs[number]], size):
                    counts[kind] = counts.get(kind, 0) + length
                first += size
            assert first == last
        elif entry & 7:
            assert entry in (2, 3, 5)
            counts[entry] = counts.get(entry, 0) + last - first
        else:
            walk_map(nodes, nodes[refs[entry >> 3]], level - 1, first, last, counts)


def extents(nodes, root, base=0):
    """The extents of a list: (logical, disk, length)."""
    refs, (version, level, *items) = nodes[root]
    found = []
    for item in items:
        if level:
            found += extents(nodes, refs[item[2]], base + item[0])
        else:
            base += item[0]
            found.append((base, item[1], item[2]))
            base += item[5] if len(item) == 6 else item[2]
    return found


def leaves(nodes, reference):
    """The leaves of a directory: lists of (record, reference list)."""
    refs, (version, level, *entries) = nodes[reference]
    assert version == 1
    if level == 0:
        return [[(record, refs) for record in entries]]
    found = []
    for first, number in entries:
        below = leaves(nodes, refs[number])
        assert below[0][0][0][0] == first, "the first name"
        found += below
    return found


def walk_directory(nodes, reference, path, entries):
    """Checks a directory and all below; `entries` gets path -> record."""
    parts = leaves(nodes, reference)
    names = [record.get(0, b"") for part in parts for record, _ in part]
    assert names == sorted(set(names)) and (names == [b""] or b"" not in names)
    for number, part in enumerate(parts):
        ends = [blake3(record.get(0, b"")).digest()[0] & 63 == 0 for record, _ in part]
        assert len(part) <= 256 and not any(ends[15:-1]), "cut too late"
        if number + 1 < len(parts):
            assert len(part) == 256 or (len(part) >= 16 and ends[-1]), "cut too early"
    for record, refs in (pair for part in parts for pair in part):
        name = path + b"/" + record.get(0, b"")
        entries[name] = record
        assert set(record) <= set(range(23)) and (22 in record) == (record.get(1) == 1)
        for number in record.get(16, []):
            assert nodes[refs[number]][1][0] == 1
        if 21 in record:
            record["extents"] = extents(nodes, refs[record[21]])
        if 22 in record:
            walk_directory(nodes, refs[record[22]], name if record.get(0) else path, entries)


def main():
    nodes, snapshot, receipt = {}, None, None
    for line in open([arg for arg in sys.argv[1:] if arg != "--dump"][0]):
        what, *words = line.split()
        if what == "node":
            kind, name, data = words[0], bytes.fromhex(words[1]), bytes.fromhex(words[2])
            context = "umbra 1 " + kind.replace("-", " ")
            assert blake3(data, derive_key_context=context).digest() == name, f"id of {words[1]}"
            count = int.from_bytes(data[:4], "little")
            refs = [(KINDS[data[at]], data[at + 1:at + 33]) for at in range(4, 4 + 33 * count, 33)]
            assert all(ref[0] == "chunk" or ref in nodes for ref in refs), "children first"
            assert len(set(refs)) == count and len(data) <= 1 << 20
            nodes[kind, name] = refs, whole(data[4 + 33 * count:])
            if kind == "manifest":
                snapshot = kind, name
            if "--dump" in sys.argv:
                print(kind, name.hex()[:12], [ref[1].hex()[:12] for ref in refs], nodes[kind, name][1])
        elif what == "receipt":
            data = bytes.fromhex(words[1])
            assert data[:10] == b"umbraRCP\x01\x00" and data[-32:] == blake3(data[:-32]).digest()
            assert int.from_bytes(data[10:14], "little") == len(data) - 14 - 32
            assert words[0] == blake3(data, derive_key_context="umbra 1 receipt").hexdigest()
            receipt = whole(data[14:-32])
    refs, manifest = nodes[snapshot]
    length, (number, levels) = manifest[1][1], manifest[9]
    assert number == 0 and receipt[3] == snapshot[1]
    counts = {}
    walk_map(nodes, nodes[refs[number]], levels, 0, length, counts)
    assert [counts.get(kind, 0) for kind in range(1, 6)] == [manifest[11].get(key, 0) for key in range(1, 6)]
    assert sum(counts.values()) == length == manifest[11][0]
    entries = {}
    for volume in manifest[8]:
        if 11 in volume:
            walk_directory(nodes, refs[volume[11]], b"", entries)
    assert len(entries[b"/pieces"]["extents"]) == 100
    for at, piece in enumerate(entries[b"/pieces"]["extents"]):
        assert piece == (at << 25, (99 - at) << 20, 4096 + at)
    print(f"{len(nodes)} nodes, {len(entries)} entries, {length} bytes of disk: all as the pages say")


main()
