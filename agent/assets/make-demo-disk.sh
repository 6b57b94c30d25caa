#!/bin/sh
# Makes demo-disk.img.zst, the small disk that `umbra demo` backs up: a GPT with one ext4 partition.
# Needs gdisk, e2fsprogs and zstd; no root. Deterministic, so that the asset can be made again.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export E2FSPROGS_FAKE_TIME=1767225600 # 2026-01-01T00:00:00Z
tree=$work/tree
mkdir -p "$tree/etc" "$tree/home/ada/letters" "$tree/var/log" "$tree/usr/share/dict"
echo demo >"$tree/etc/hostname"
printf '/dev/vda1 / ext4 defaults 0 1\n' >"$tree/etc/fstab"
echo 'Dear reader, this letter was pulled out of a disk image without mounting it.' \
    >"$tree/home/ada/letters/hello.txt"
ln -s ../home/ada/letters/hello.txt "$tree/etc/motd"
i=0
while [ $i -lt 200 ]; do
    printf 'report %d\n' "$i" >"$tree/var/log/report-$i.log"
    i=$((i + 1))
done
seq 1 120000 | sed 's/^/word-/' >"$tree/usr/share/dict/words"
head -c 262144 /dev/zero | openssl enc -aes-128-ctr -nosalt -pass pass:umbra 2>/dev/null \
    >"$tree/home/ada/photo.raw"
find "$tree" -exec touch -h -d 2026-01-01T00:00:00Z {} +
truncate -s 32M "$work/disk.img"
sgdisk -Z "$work/disk.img" >/dev/null 2>&1 || true
sgdisk -U 5c1a0b5e-0000-4000-8000-000000000001 -n 1:2048:0 -t 1:8300 -c 1:demo \
    -u 1:5c1a0b5e-0000-4000-8000-000000000002 "$work/disk.img" >/dev/null
mke2fs -q -F -t ext4 -L demo -U 5c1a0b5e-0000-4000-8000-000000000003 \
    -E offset=1048576,hash_seed=5c1a0b5e-0000-4000-8000-000000000004,root_owner=0:0 \
    -d "$tree" "$work/disk.img" 30M
zstd -q -19 --long=27 -f -o "$here/demo-disk.img.zst" "$work/disk.img"
ls -l "$here/demo-disk.img.zst"
