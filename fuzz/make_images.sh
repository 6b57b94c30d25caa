#!/bin/sh
# Makes images/*.zst, the real file systems and tables that fuzz inputs start from. Needs
# e2fsprogs, gdisk, zstd; no root. Run it only to change the set: the inputs of corpus/ext count
# the units of these very images.
set -eu
cd "$(dirname "$0")"
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/tree/dir/deep" "$work/tree/many"
printf 'hello\n' >"$work/tree/hello"
printf 'x' >"$work/tree/dir/deep/x"
head -c 5000 /dev/zero | tr '\0' 'a' >"$work/tree/dir/five-thousand"
truncate -s 300000 "$work/tree/sparse"
printf 'end' | dd of="$work/tree/sparse" bs=1 seek=299997 conv=notrunc status=none
ln -s hello "$work/tree/short-link"
ln -s "$(printf '%0100d' 7)" "$work/tree/long-link"
ln "$work/tree/hello" "$work/tree/dir/hard-link"
mkfifo "$work/tree/pipe"
i=0
while [ $i -lt 60 ]; do
    : >"$work/tree/many/a-file-with-a-long-name-$i"
    i=$((i + 1))
done

export E2FSPROGS_FAKE_TIME=1700000000
make() { # name, kibibytes, options of mke2fs
    name=$1 size=$2
    shift 2
    mke2fs -q -F -b 1024 -U 0ee4d0ab-9ef0-4e01-9e01-4f3a36d0c101 -m 0 -d "$work/tree" "$@" \
        "$work/$name" "$size" >/dev/null
    debugfs -w "$work/$name" >/dev/null 2>&1 <<CMD
ea_set hello user.one value
ea_set hello security.capability 0123456789012345
ea_set dir user.large $(printf '%0300d' 1)
mknod null c 1 3
mknod disk b 8 0
CMD
}
make ext2 192 -t ext2 -N 128
make ext2-rev0 192 -t ext2 -r 0 -N 128
make ext4 224 -t ext4 -N 128 -O ^has_journal,^resize_inode
make ext4-inline 224 -t ext4 -N 128 -I 256 -O ^has_journal,^resize_inode,inline_data
make ext4-bigalloc 512 -t ext4 -N 128 -C 4096 -O ^has_journal,^resize_inode,bigalloc
make ext4-meta-bg 640 -t ext4 -N 256 -g 256 -O ^has_journal,^resize_inode,meta_bg,^flex_bg,^64bit
make ext4-journal 2304 -t ext4 -N 128 -J size=1 -O ^resize_inode,^metadata_csum
# A journal that holds changes: a block of the root directory, and one revoked.
debugfs -R 'blocks /' "$work/ext4-journal" 2>/dev/null >"$work/blocks"
root=$(cut -d' ' -f1 "$work/blocks")
dd if="$work/ext4-journal" of="$work/copy" bs=1024 skip="$root" count=1 status=none
printf 'HELLO' | dd of="$work/copy" bs=1 seek=52 conv=notrunc status=none
cat "$work/copy" "$work/copy" >"$work/copies"
debugfs -w "$work/ext4-journal" >/dev/null 2>&1 <<CMD
jo
jw -b $root,1500 $work/copies
jw -r 1500
jc
CMD
# debugfs leaves the log marked empty and uncommitted: begin at its first block, commit what is there.
log=$(debugfs -R 'blocks <8>' "$work/ext4-journal" 2>/dev/null | cut -d' ' -f1)
printf '\0\0\0\1' |
    dd of="$work/ext4-journal" bs=1 seek=$((log * 1024 + 28)) conv=notrunc status=none
printf '\300\073\071\230\0\0\0\2\0\0\0\1' |
    dd of="$work/ext4-journal" bs=1 seek=$((log * 1024 + 4096)) conv=notrunc status=none
mkdir -p images
for image in ext2 ext2-rev0 ext4 ext4-inline ext4-bigalloc ext4-meta-bg ext4-journal; do
    e2fsck -fn "$work/$image" >/dev/null 2>&1 || echo "$image: e2fsck is not content ($?)"
    zstd -q -19 -f "$work/$image" -o "images/$image.zst"
done

# Journals of their own, with as many blocks as are in use, and tables as small disks.
dumpe2fs -h "$work/ext4-journal" 2>/dev/null | grep -q needs_recovery || echo "no recovery"
debugfs -R "dump <8> $work/journal" "$work/ext4-journal" >/dev/null 2>&1
head -c 16384 "$work/journal" | zstd -q -19 >images/journal.zst
truncate -s 1M "$work/gpt"
sgdisk -a 1 -n 1:40:100 -t 1:ef00 -c 1:efi -n 2:101:500 -c 2:rööt -A 2:set:2 "$work/gpt" >/dev/null
head -c 1536 "$work/gpt" | zstd -q -19 >images/gpt-head.zst
tail -c 16896 "$work/gpt" | zstd -q -19 >images/gpt-tail.zst
ls -l images
