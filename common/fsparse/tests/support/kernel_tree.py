"""Prints what the kernel says of a mounted tree: one JSON object a line, as in shared/corpus.

Usage: kernel_tree.py DIR.
"""

import array
import errno
import fcntl
import hashlib
import json
import os
import stat
import struct
import sys

FS_IOC_FIEMAP = 0xC020660B
TYPES = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
}


def percent(name):
    return "".join(
        chr(b) if 0x20 <= b <= 0x7E and b not in b"%\\" else f"%{b:02X}" for b in name
    )


def extents(fd):
    """FIEMAP, with sync left out: the file system must already be as it is on the disk."""
    found = []
    start = 0
    count = 500
    while True:
        request = struct.pack("=QQIIII", start, (1 << 64) - 1 - start, 0, 0, count, 0)
        buffer = array.array("B", request + bytes(56 * count))
        fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
        mapped = struct.unpack_from("=I", buffer, 20)[0]
        for index in range(mapped):
            logical, physical, length, _, _, flags = struct.unpack_from(
                "=QQQQQI", buffer, 32 + 56 * index
            )
            found.append([logical, physical, length, flags])
        if mapped == 0 or found[-1][3] & 1:
            return found
        start = found[-1][0] + found[-1][2]


def line(path, name):
    info = os.lstat(path)
    entry = {
        "path": percent(name),
        "type": TYPES[stat.S_IFMT(info.st_mode)],
        "size": info.st_size,
        "mode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "nlink": info.st_nlink,
        "ino": info.st_ino,
        "mtime_ns": info.st_mtime_ns,
        "ctime_ns": info.st_ctime_ns,
    }
    xattrs = {}
    for attribute in os.listxattr(path, follow_symlinks=False):
        value = os.getxattr(path, attribute, follow_symlinks=False)
        xattrs[attribute] = value.hex()
    if xattrs:
        entry["xattrs"] = xattrs
    if entry["type"] == "l":
        entry["target"] = percent(os.readlink(path))
    if entry["type"] in "cb":
        entry["rdev"] = [os.major(info.st_rdev), os.minor(info.st_rdev)]
    if entry["type"] in "fd":
        fd = os.open(path, os.O_RDONLY)
        if entry["type"] == "f":
            with os.fdopen(os.dup(fd), "rb") as file:
                entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            entry["extents"] = extents(fd)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        os.close(fd)
    print(json.dumps(entry))


def main():
    top = os.fsencode(sys.argv[1])
    line(top, b"")
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            line(path, os.path.relpath(path, top))


main()
