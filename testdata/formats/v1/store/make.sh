#!/bin/sh
# How testdata/formats/v1/store was made, once, on 2026-11-30: make.sh OUT makes OUT/vault and OUT/expected.txt.
# Another run makes another store: ids and times are new. So this is here to be read, not to be run again.
# Needs umbra and umbra-vault in PATH, e2fsprogs, gdisk, and $UMBRA_PYTHON with the module blake3.
set -eu
out=$(realpath -m "$1")
python=${UMBRA_PYTHON:-python3}
mkdir "$out"
cd "$out"
export HOME="$out/home" XDG_RUNTIME_DIR="$out/home" UMBRA_CONFIG="$out/home/agent.toml" UMBRA_CACHE_DIR="$out/home"
export E2FSPROGS_FAKE_TIME=1700000000 LC_ALL=C.UTF-8
mkdir home

"$python" - <<'END'
import os
from blake3 import blake3
os.makedirs("tree/many")
os.makedirs("tree/deep/er/and/deeper/größe")
def write(name, data):
    with open("tree/" + name, "wb") as file:
        file.write(data)
write("hello.txt", b"Dear reader, this came out of a store of 2026.\n")
write("empty", b"")
write("chunks.bin", blake3(b"chunks").digest(180_000))       # does not compress, several chunks
write("lines.txt", b"".join(b"line %d\n" % n for n in range(30_000)))
write("deep/er/and/deeper/größe/naïve.txt", b"a deep directory, names that are not ASCII\n")
os.link("tree/hello.txt", "tree/deep/linked.txt")
with open("tree/hole.bin", "wb") as file:                      # a hole in the middle and one at the end
    file.write(b"begin" * 1000)
    file.seek(300_000)
    file.write(b"end" * 1000)
    file.truncate(400_001)
with open("tree/pieces.bin", "wb") as file:                    # more than 64 extents: an extent list
    for n in range(80):
        file.seek(n * 3072)
        file.write(b"%04d" % n * 256)
for n in range(300):                                           # more than 256 names: directory nodes above leaves
    write("many/%03d" % n, b"%d\n" % n if n % 100 == 0 else b"")
END

find tree -exec touch -h -d @1700000000 {} +
truncate -s 8M disk.img
eatmydata sgdisk -o -U 11111111-2222-3333-4444-555555555555 -n 1:2048:+6M -t 1:8300 \
    -u 1:66666666-7777-8888-9999-AAAAAAAAAAAA disk.img > home/sgdisk.log
mke2fs -q -t ext4 -b 1024 -N 512 -L golden -U 12345678-1234-1234-1234-123456789abc \
    -E hash_seed=87654321-4321-4321-4321-cba987654321 -d tree part.img 6144
dd if=part.img of=disk.img bs=1M seek=1 conv=notrunc status=none

expect() { # SNAPSHOT DISK TREE: what must come out, by other means than umbra
    "$python" - "$@" >> expected.txt <<'END'
import os, sys
from blake3 import blake3
snapshot, disk, tree = sys.argv[1:]
print(blake3(open(disk, "rb").read()).hexdigest(), snapshot, "-")
for folder, folders, names in os.walk(tree):
    folders.sort()
    for name in sorted(names):
        path = os.path.join(folder, name)
        if "/many/" not in path or path.endswith("00"):
            print(blake3(open(path, "rb").read()).hexdigest(), snapshot, "part/1/" + os.path.relpath(path, tree))
END
}
backup() { umbra --json --machine golden --disk sda backup "$@" disk.img | sed -n 's/.*"snapshot":"\([0-9a-f]*\)".*/\1/p' | tail -1; }

umbra init "file://$out/vault"
expect "$(backup --free skip)" disk.img tree

# The next day: a file is removed, one is written.
echo "The second day." > tree/second.txt
rm tree/lines.txt
debugfs -w -f - part.img > home/debugfs.log 2>&1 <<'END'
rm lines.txt
write tree/second.txt second.txt
END
dd if=part.img of=disk.img bs=1M seek=1 conv=notrunc status=none
e2fsck -fn part.img > home/e2fsck.log 2>&1
expect "$(backup --free keep)" disk.img tree
rm -r vault/index vault/keys
find vault -type f -exec ls -l {} +
