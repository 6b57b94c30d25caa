"""Prints what the kernel says of a mounted tree: one JSON object a line, as in the corpus.

Usage: kernel_tree.py DIR. What the kernel refuses to read has the field `error` and no other; what
is encrypted, and shows no content without its key, has `locked`.
"""

import array
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import stat
import struct
import sys

FS_IOC_FIEMAP = 0xC020660B
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_GETVERSION = 0x80087601
FS_IOC_FSGETXATTR = 0x801C581F
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
STATX_BTIME = 0x800
STATX_ATTR_ENCRYPTED = 0x800
TYPES = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
}
LIBC = ctypes.CDLL(None, use_errno=True)


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


def statx(path):
    """Birth time in nanoseconds, or None, and whether it is encrypted."""
    buffer = ctypes.create_string_buffer(256)
    if LIBC.statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, buffer) != 0:
        raise OSError(ctypes.get_errno(), "statx")
    mask, _, attributes = struct.unpack_from("=IIQ", buffer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 0x50)
    birth = seconds * 1_000_000_000 + nanoseconds if mask & STATX_BTIME else None
    return birth, bool(attributes & STATX_ATTR_ENCRYPTED)


def of_inode(fd, entry):
    """What only an open file or directory tells."""
    number = fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))
    entry["flags"] = f"{struct.unpack_from('=I', number)[0]:#x}"
    number = fcntl.ioctl(fd, FS_IOC_GETVERSION, bytes(8))
    entry["generation"] = struct.unpack_from("=I", number)[0]
    entry["project"] = struct.unpack_from("=IIII", fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(28)))[3]


def of_path(path, name):
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
    birth, encrypted = statx(path)
    if birth is not None:
        entry["crtime_ns"] = birth
    xattrs = {}
    for attribute in os.listxattr(path, follow_symlinks=False):
        value = os.getxattr(path, attribute, follow_symlinks=False)
        xattrs[attribute] = value.hex()
    if xattrs:
        entry["xattrs"] = xattrs
    if entry["type"] == "l":
        if encrypted:
            entry["locked"] = True
        else:
            entry["target"] = percent(os.readlink(path))
    if entry["type"] in "cb":
        entry["rdev"] = [os.major(info.st_rdev), os.minor(info.st_rdev)]
    if entry["type"] in "fd":
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            if error.errno != errno.ENOKEY:
                raise
            entry["locked"] = True
            return entry
        try:
            if entry["type"] == "f":
                with os.fdopen(os.dup(fd), "rb") as file:
                    entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            of_inode(fd, entry)
            try:
                entry["extents"] = extents(fd)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
        finally:
            os.close(fd)
    return entry


def line(path, name):
    try:
        entry = of_path(path, name)
    except OSError as error:
        entry = {"path": percent(name), "error": os.strerror(error.errno)}
    print(json.dumps(entry))


def main():
    top = os.fsencode(sys.argv[1])
    line(top, b"")

    def unlisted(error):
        print(json.dumps({"path": percent(os.path.relpath(error.filename, top)),
                          "error": f"not listed: {os.strerror(error.errno)}"}))

    for folder, folders, files in os.walk(top, onerror=unlisted):
        for name in folders + files:
            path = os.path.join(folder, name)
            line(path, os.path.relpath(path, top))


main()
