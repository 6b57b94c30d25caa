#!/usr/bin/env python3
"""Reads a store of umbra without umbra and without its index: gets disks and files back.

    read_store.py STORE list                       snapshots: id, machine, disk, time, bytes of the disk
    read_store.py STORE recover SNAPSHOT OUT       the disk, into a new file, sparse where it is zero
    read_store.py STORE cat SNAPSHOT PATH [OUT]    one file; PATH as part/2/etc/passwd or /etc/passwd

SNAPSHOT is an id or its first digits, four or more. All packs are read and proven first. Damage is named, and
what is lost becomes zeros. Exit codes: 0 done and proven; 1 error; 4 damage, in what was asked for or elsewhere.
The LOG, which would tell that the newest receipts are gone, is not read. An object takes 250 bytes of memory.
Rules: the pages beside this file. Needs Python 3.10 and: pip install blake3 zstandard"""
import bisect, datetime, functools, os, re, struct, sys, zstandard
from blake3 import blake3

KINDS = ["chunk", "map page", "map node", "directory node", "extent list", "xattrs", "manifest"]
CHUNK, PAGE, MAP, DIRECTORY, EXTENTS, _, MANIFEST = range(7)
WINDOW, LONGEST_PACK, ZEROS = 16 << 20, 64 << 20, memoryview(bytes(1 << 20))
told = {}  # what was said on standard error -> its exit code

class Problem(Exception):
    """A text for people, and the exit code: 4 where bytes are not what they were."""

def must(holds, text, code=4):
    if not holds:
        raise Problem(text, code)

def tell(error, about=""):
    """Says an error once, and not for ever. Exceptions of Python come from malformed bytes."""
    text, code = error.args if isinstance(error, Problem) else (f"not as its page says: {error!r}", 4)
    text, code = (str(error), 1) if isinstance(error, OSError) else (text, code)
    line = ("damage: " * (code == 4) + about + text).encode("ascii", "backslashreplace").decode()
    if line not in told and len(told) < 1000:
        print("read_store:", line, file=sys.stderr)
        told[line] = code

def number(value, below=1 << 64):
    must(type(value) is int and 0 <= value < below, f"{value!r} is no number below {below}")
    return value

def known(most, fields):
    """A map with known keys alone: another one says what this reader does not understand."""
    must(max(fields.keys(), default=0) <= most, f"a field above {most}: a later version wrote it", 1)
    return fields

def read_file(path, limit):
    """A whole file: no link, which could lead out of the store, no pipe, which would wait for ever."""
    good = os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) <= limit
    must(good, f"{path} is no plain file of at most {limit} bytes", 1)
    with open(path, "rb") as file:
        return file.read(limit)

def listed(*path, form):
    """The paths in a directory whose names have the form, in order; no links."""
    path = os.path.join(*path)
    names = sorted(os.listdir(path)) if os.path.isdir(path) and not os.path.islink(path) else []
    return [os.path.join(path, name) for name in names if re.fullmatch(form, name)]

def item(data, at=0, depth=0):
    """One item of deterministic CBOR (nodes.md): returns it and where it ends."""
    major, value, at = data[at] >> 5, data[at] & 31, at + 1
    must(depth < 16 and major != 6 and (major < 7 or value in (20, 21)), "nested too deep, or of an unused type")
    if value >= 24:
        size, least = {24: (1, 24), 25: (2, 1 << 8), 26: (4, 1 << 16), 27: (8, 1 << 32)}[value]
        value, at = int.from_bytes(data[at:at + size], "big"), at + size
        must(value >= least and at <= len(data), "a head that is not the shortest, or cut short")
    if major in (0, 1, 7):
        return {0: value, 1: -1 - value, 7: value == 21}[major], at
    must(value <= len(data) - at, "cut short")
    if major in (2, 3):
        return (data[at:at + value].decode() if major == 3 else data[at:at + value]), at + value
    items = []
    for _ in range(value if major == 4 else 2 * value):
        one, at = item(data, at, depth + 1)
        items.append(one)
    keys = [] if major == 4 else [number(key) for key in items[::2]]
    must(all(key < after for key, after in zip(keys, keys[1:])), "keys that do not ascend")
    return (items if major == 4 else dict(zip(keys, items[1::2]))), at

def whole(data):
    found, end = item(data)
    must(end == len(data), "bytes behind the end")
    return found

def varints(data):
    """The LEB128 numbers of a map page; what is none leaves the page uncovered."""
    for digits in re.findall(rb"[\x80-\xff]{0,4}[\x00-\x7f]", data):
        yield sum((digit & 127) << 7 * place for place, digit in enumerate(digits))

def prove(data, at, store):
    """Proves the record at `at` (pack.md): returns kind, id, reference list, plain body, and where it ends."""
    head = data[at:at + 120]
    must(len(head) == 120 and head[:8] == b"UMBRAREC" and head[24:40] == store, "it is no record of this store")
    version, kind, codec, cipher, flags, members = struct.unpack_from("<HBBBBH", head, 8)
    plain, stored, count, rest = struct.unpack_from("<IIII", head, 104)
    end = at + 120 + 33 * count + stored
    must(plain <= 1 << 20 and stored <= 17 << 16 and count <= 31775 and end <= len(data), "its lengths are impossible")
    references, body, ident = data[at + 120:end - stored], data[end - stored:end], head[40:72]
    check = blake3(head[:72]).update(head[104:]).update(references).update(body).digest()
    must(check == head[72:104], "its check is wrong")
    is_known = (version, cipher, flags, members, rest) == (1, 0, 0, 1, 0) and kind <= MANIFEST and codec <= 1
    must(is_known, "its version, kind, codec or cipher is unknown to this reader", 1)
    if codec == 1:  # takes no more than the record says, whatever the frame says
        body = zstandard.ZstdDecompressor(max_window_size=8 << 20).stream_reader(body).read(plain + 1)
    node = head[112:116] + references + body
    proof = blake3(node, derive_key_context="umbra 1 " + KINDS[kind]) if kind else blake3(body)
    must(len(body) == plain and proof.digest() == ident and (kind or not count), "its content is not that of its id")
    return kind, ident, references, body, end

class Store:
    """A store whose packs are proven: `places` has id -> kind, number of pack, first byte, length."""
    def __init__(self, path):
        self.path, self.packs, self.places = path, [], {}
        self.object, self.node = functools.lru_cache(64)(self.object), functools.lru_cache(32)(self.node)
        text, _, check = read_file(os.path.join(path, "FORMAT"), 1 << 16).rpartition(b"check ")
        lines = dict((line + b" ").split(b" ", 1) for line in text.splitlines())
        must(lines.get(b"UMBRASTO", b"").strip() == b"1", f"{path} is no store of version 1", 1)
        must(check == blake3(text).hexdigest().encode() + b"\n", f"{path}/FORMAT: its check is wrong")
        must(not lines[b"incompatible"].strip(), f"{path} uses features that are unknown to this reader", 1)
        self.id, still_open = bytes.fromhex(lines[b"id"].decode()), os.path.join(path, "open")
        for part in [*listed(path, "packs", form="[0-9a-f]{2}"), still_open]:
            for pack in listed(part, form="[0-9a-f]{32}"):
                self.packs.append(pack)
                try:
                    self.read_pack(pack, part == still_open)
                except Exception as error:
                    tell(error, f"{pack}: ")
    def read_pack(self, pack, is_open):
        """Takes the records that the table of contents names; without a table, those that a scan finds."""
        data, header = read_file(pack, LONGEST_PACK), self.id + bytes.fromhex(os.path.basename(pack))
        if data[:10] + data[16:48] + data[96:128] != b"UMBRPACK\1\0" + header + blake3(data[:96]).digest():
            tell(Problem(f"{pack}: its header is wrong", 4))
        table = self.contents(data, header)
        if table is None and os.path.lexists(pack + ".contents"):
            table = self.contents(read_file(pack + ".contents", LONGEST_PACK), header)
        for at, kind, ident in self.scan(data, pack, is_open) if table is None else table:
            try:
                *found, _, _, end = prove(data, at, self.id)
                must(found == [kind, ident], "it is another than the table says")
                self.places[ident] = kind << 96 | (len(self.packs) - 1) << 64 | at << 32 | end - at
            except Exception as error:
                tell(error, f"{pack}: the record at {at} ({KINDS[kind]} {ident.hex()}): ")
    def contents(self, data, header):
        """The table of contents at the end of `data`: offset, kind, id of each record; None if none is sound."""
        try:
            table = data[max(len(data) - struct.unpack_from("<Q", data, len(data) - 48)[0], 0):]
            must(table[-8:] == b"UMBRAEND" and blake3(table[:-40]).digest() == table[-40:-8], "no table")
            must(table[:12] + table[16:48] == b"UMBRAFTR\1\0\0\0" + header, "another pack's")
            at, entries = 64, []
            for _ in range(*struct.unpack_from("<I", table, 12)):
                offset, ident, kind, _, _, _, references = struct.unpack_from("<Q32sB3xIIII", table, at)
                entries.append((offset, KINDS[kind] and kind, ident))
                at += 60 + 33 * references
            must(at == len(table) - 48, "another number of entries")
            return entries
        except Exception:
            return None
    def scan(self, data, pack, is_open):
        """Finds the records of a pack without a table (pack.md, Scan): offset, kind and id."""
        at, bad, budget = 128, None, 64 * len(data)
        if not is_open:
            tell(Problem(f"{pack}: it has no sound table of contents, and is scanned", 4))
        while 0 <= at < len(data) and budget > 0:
            try:
                kind, ident, _, _, end = prove(data, at, self.id)
            except Exception:
                bad, (stored, count) = bad or at, struct.unpack("<II", data[at + 108:at + 116].ljust(8, b"\0"))
                budget -= min(stored + 33 * count, 2 << 20)
                at = data.find(b"UMBRAREC", at + 1)
                continue
            if bad:
                tell(Problem(f"{pack}: bytes {bad} to {at - 1} are no records, or were never synced", 4))
            yield at, kind, ident
            at, bad = end, None
        if bad:  # at the end of an open pack: nobody was told that it is stored
            tell(Problem(f"{pack}: from byte {bad} on there is no record" + " (a torn tail)" * is_open, 4 - 4 * is_open))
    def object(self, kind, ident):
        """The reference list and the plain body of an object."""
        place, mask = self.places.get(ident, -1), 0xffffffff
        must(place >> 96 == kind, f"the {KINDS[kind]} {ident.hex()} is nowhere whole in the store")
        with open(self.packs[place >> 64 & mask], "rb") as file:
            file.seek(place >> 32 & mask)
            return prove(file.read(place & mask), 0, self.id)[2:4]
    def node(self, kind, ident):
        """A node (nodes.md): its reference list and the decoded body."""
        references, body = self.object(kind, ident)
        return references, whole(body)
    def snapshots(self):
        """Id, machine, disk, time of what the receipts name, oldest first (receipt.md); then what has no receipt."""
        before, rest = None, {ident for ident, place in self.places.items() if place >> 96 == MANIFEST}
        for path in listed(self.path, "receipts", form="[0-9]{16}"):
            try:
                data = read_file(path, 512 << 10)
                must(data[-32:] == blake3(data[:-32]).digest(), "its check is wrong")
                must(data[:14] == b"umbraRCP" + struct.pack("<HI", 1, len(data) - 46), "its version or length")
                fields = known(14, whole(data[14:-32]))
                must((fields[0], fields[1]) == (self.id, int(path[-16:])), "another store's, or another number")
                if fields.get(2) != before:
                    tell(Problem(f"{path}: the receipt before it is missing or damaged", 4))
                before = blake3(data, derive_key_context="umbra 1 receipt").digest()
                rest.discard(fields[3])
                yield fields[3], fields[6], fields[7], fields[10]
            except Exception as error:
                tell(error, f"{path}: ")
        yield from ((ident, "", "", None) for ident in sorted(rest))

def child(references, index, kind):
    """The id that a node's body names by its number in the reference list."""
    at = 33 * number(index, len(references) // 33)
    must(references[at] == kind, "a reference of another kind")
    return references[at + 1:at + 33]

class Snapshot:
    """A disk through its image map (image-map.md), and its files through the overlays (overlay.md)."""
    def __init__(self, store, ident):
        self.store, self.runs = store, functools.lru_cache(2)(self.runs)
        self.references, self.fields = store.node(MANIFEST, ident)
        must(known(20, self.fields)[0] == 1 and len(self.fields[10]) == 32, "a manifest's version or image hash")
        self.length, self.levels = number(known(5, self.fields[1]).get(1, 0)), number(self.fields[9][1], 6)
    def pages(self, window):
        """The pages of a window as halvings and ids; nothing where all is zeros."""
        ident, first, end = child(self.references, self.fields[9][0], MAP), 0, -(-self.length // WINDOW)
        for level in range(self.levels, 0, -1):
            (references, (version, found, *entries)), step = self.store.node(MAP, ident), 256 ** (level - 1)
            must((version, found, len(entries)) == (1, level, -(-(end - first) // step)), "a map node's head")
            entry = entries[(window - first) // step]
            if entry in (2, 3, 5):
                return []
            if level > 1:
                must(number(entry) & 7 == 0, "an unknown kind of entry in a map node")
                ident, first = child(references, entry >> 3, MAP), window - (window - first) % step
                end = min(end, first + step)
        return [(number(halvings, 13), child(references, index, PAGE))
                for halvings, index in zip(entry[1::2], entry[2::2])]
    def runs(self, window):
        """The runs of a window: first byte on the disk, length, chunk (None: zeros), offset in the chunk."""
        at, end, runs = window * WINDOW, min(window * WINDOW + WINDOW, self.length), []
        try:
            for halvings, ident in self.pages(window):
                length, met = min(WINDOW >> halvings, end - at), 0
                references, body = self.store.node(PAGE, ident)
                must(body[:2] == [1, length] and len(runs) < 1 << 20, "a page's version or length, or too many runs")
                end_of_page, numbers = at + length, varints(body[2])
                for code in numbers:
                    kind, size, chunk, offset = code & 7, code >> 3, None, 0
                    must(kind <= 5 and 0 < size <= end_of_page - at, "a run of unknown kind or behind the page")
                    if kind <= 1:
                        index, offset = (met, 0) if kind == 0 else (next(numbers), next(numbers))
                        met, chunk = met + (index == met), child(references, index, CHUNK)
                    runs.append((at, size, chunk, offset))
                    at += size
                must(at == end_of_page, "runs that do not cover their page")
            must(at == end or not runs, "pages that do not cover their window")
        except Exception as error:
            tell(error, f"bytes {at} to {end - 1} of the disk are lost: ")
        return runs + [(at, end - at, None, 0)]
    def read(self, start, length):
        """A range of the disk in order: pieces of bytes, and numbers of zeros."""
        must(start + length <= self.length, "a range behind the end of the disk")
        while length:
            runs = self.runs(start // WINDOW)
            first, size, chunk, offset = runs[bisect.bisect_right(runs, start, key=lambda run: run[0]) - 1]
            piece = part = min(length, first + size - start)
            if chunk:
                try:
                    data, at = self.store.object(CHUNK, chunk)[1], offset + start - first
                    must(at + part <= len(data), "a run that is longer than its chunk")
                    piece = data[at:at + part]
                except Exception as error:
                    tell(error, f"bytes {start} to {start + part - 1} of the disk are lost: ")
            yield piece
            start, length = start + part, length - part
    def extents(self, references, items, base, level):
        """The extents of a file or below a node of its list: first byte of content, how many, extent."""
        at = base
        for one in items:
            must(len(one) == 3 or (level == 0 and len(one) in (4, 6)), "an extent of unknown form")
            shown = number(one[1] if level else one[5] if len(one) == 6 else one[2])
            start = (base if level else at) + number(one[0])
            must(start >= at and shown > 0, "extents that overlap or are empty")
            at = start + shown
            if level:
                below, (version, found, *parts) = self.store.node(EXTENTS, child(references, one[2], EXTENTS))
                must((version, found) == (1, level - 1) and parts, "an extent list's head")
                yield from self.extents(below, parts, start, level - 1)
            else:
                yield start, shown, one
    def content(self, record, references):
        """The content of a file: pieces of bytes, and numbers of zeros."""
        at, size, items, level = 0, number(record.get(5, 0)), record.get(20, []), 0
        if 21 in record:
            references, (version, level, *items) = self.store.node(EXTENTS, child(references, record[21], EXTENTS))
            must(version == 1 and number(level, 6) >= 0, "an extent list's version")
        for start, shown, extent in self.extents(references, items, 0, level):
            if start >= size:
                break
            must(start >= at, "extents that overlap")
            yield start - at
            at = min(start + shown, size)
            disk, length, code, first = (extent[1:] + [0, 0])[:4]
            if code == 1:
                yield at - start
            elif code in (0, 2) and len(extent) < 6:
                yield from self.read(number(disk), at - start)
            else:
                must(code in (5 << 2, 5 << 2 | 2), f"an extent of kind and codec {code}: unknown to this reader", 1)
                block = b"".join(map(bytes, self.read(number(disk), number(length, WINDOW))))  # bytes(5): five zeros
                yield (b"\xc0\x3b\x39\x98" + block[4:])[number(first):][:at - start]
        yield size - at
    def look_up(self, ident, wanted):
        """The record of a name in a directory, and what it refers to; None where it is not there."""
        level = None
        while level != 0:
            references, (version, found, *entries) = self.store.node(DIRECTORY, ident)
            must(version == 1 and level in (None, number(found) + 1), "a directory node's head")
            level = found
            entries = [one for one in entries if (one[0] <= wanted if level else one.get(0, b"") == wanted)]
            if not entries:
                return None, None
            ident = child(references, entries[-1][1], DIRECTORY) if level else None
        return known(22, entries[0]), references
    def file(self, path):
        """Follows a path by name from the root of its volume."""
        volumes, words = [one for one in self.fields.get(8, []) if 11 in known(11, one)], os.fsencode(path)
        if not path.startswith("/"):
            volumes = [one for one in volumes if (words + b"/").startswith(one[0].encode() + b"/")]
            words = words[len(volumes[0][0].encode()):] if volumes else words
        must(len(volumes) == 1, f"{path!r}: {len(volumes)} file systems could have it; write part/2/... or disk/...", 1)
        record, references = self.look_up(child(self.references, volumes[0][11], DIRECTORY), b"")
        for word in filter(None, words.split(b"/")):
            must(record and 22 in record, f"{path!r} is not there", 1)
            record, references = self.look_up(child(references, record[22], DIRECTORY), word)
        must(record and record.get(1, 0) == 0, f"{path!r} is not there or no file", 1)
        must(not record.get(18, 0) & 0x800 and record[19] != 6, f"{path!r} is encrypted, and so is what is kept", 1)
        return record, references

def put(file, pieces, hasher, sparse):
    """Writes and hashes pieces as `read` gives them; zeros become holes in a new file."""
    for piece in pieces:
        is_zero = isinstance(piece, int)
        for at in range(0, piece if is_zero else len(piece), len(ZEROS)):
            part = ZEROS[:piece - at] if is_zero else piece[at:at + len(ZEROS)]
            hasher.update(part)
            file.seek(len(part), os.SEEK_CUR) if is_zero and sparse else file.write(part)

def find(store, digits):
    ids = {ident.hex() for ident, *_ in store.snapshots() if ident.hex().startswith(digits)}
    must(len(ids) == 1 and len(digits) >= 4, f"{digits!r} are not 4 or more digits of one id: {len(ids)} begin so", 1)
    return Snapshot(store, bytes.fromhex(ids.pop()))

def show(store):
    for ident, machine, disk, time in store.snapshots():
        try:
            snapshot = Snapshot(store, ident)
            names = machine or snapshot.fields[2], disk or snapshot.fields[1][0]
            must(all(re.fullmatch("[A-Za-z0-9._-]{1,64}", one) for one in names), "the name of machine or disk")
            seconds, nanoseconds = time or snapshot.fields[4]
            day = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
            length = str(snapshot.length) + ("" if time else " (no receipt)")
            print(ident.hex(), *names, f"{day.isoformat()}.{nanoseconds:09d}Z", length)
        except Exception as error:
            tell(error, f"snapshot {ident.hex()}: ")

def recover(store, digits, path):
    snapshot = find(store, digits)
    image = blake3(struct.pack("<Q", snapshot.length), derive_key_context="umbra 1 image hash")
    with open(path, "xb") as file:
        file.truncate(snapshot.length)  # fails at once where there can be no such file
        for start in range(0, snapshot.length, WINDOW):
            window = blake3()
            put(file, snapshot.read(start, min(WINDOW, snapshot.length - start)), window, True)
            image.update(window.digest())
    found, recorded = image.hexdigest(), snapshot.fields[10].hex()
    must(found == recorded, f"{path} is not the disk: its image hash is {found}, the manifest has {recorded}")
    print(f"{path}: {snapshot.length} bytes, image hash {found} as in the manifest")

def cat(store, digits, path, to=None):
    snapshot, hasher = find(store, digits), blake3()
    record, references = snapshot.file(path)
    with open(to, "xb") if to else open(sys.stdout.fileno(), "wb", closefd=False) as file:
        put(file, snapshot.content(record, references), hasher, bool(to))
        if to:
            file.truncate()
    if isinstance(record[19], int):
        return tell(Problem(f"{path!r}: no hash proves it, for reason {record[19]} of overlay.md", 0))
    found, recorded = hasher.hexdigest(), record[19].hex()
    must(found == recorded, f"{path!r} is not what it was: its BLAKE3 is {found}, the record has {recorded}")

def main():
    commands = {("list", 3): show, ("recover", 5): recover, ("cat", 5): cat, ("cat", 6): cat}
    command = commands.get(("".join(sys.argv[2:3]), len(sys.argv)))
    if not command:
        sys.exit(__doc__)
    try:
        command(Store(sys.argv[1]), *sys.argv[3:])
        sys.stdout.flush()
    except Exception as error:
        tell(error)
    sys.exit(max(told.values(), default=0))

main()
