"""Makes an encrypted directory in a mounted ext4, and prints the extents of its files.

Usage: encrypted.py DIR. Prints {inode: [[logical, physical, length, unwritten], ...]} as the kernel
tells it while it has the key. Exit code 77 where the kernel encrypts nothing.
"""

import array
import ctypes
import errno
import fcntl
import json
import os
import random
import struct
import sys

FS_IOC_SET_ENCRYPTION_POLICY = 0x800C6613
FS_IOC_ADD_ENCRYPTION_KEY = 0xC0506617
FS_IOC_FIEMAP = 0xC020660B
KEY_BY_IDENTIFIER = 2
AES_256_XTS = 1
AES_256_CTS = 4
PAD_32 = 3


def add_key(top):
    key = bytes(range(64))
    argument = bytearray(struct.pack("=II32xI", KEY_BY_IDENTIFIER, 0, len(key)))
    argument += bytes(80 - len(argument)) + key
    fd = os.open(top, os.O_RDONLY)
    fcntl.ioctl(fd, FS_IOC_ADD_ENCRYPTION_KEY, argument)
    os.close(fd)
    return bytes(argument[8:24])


def encrypt(directory, identifier):
    policy = struct.pack("=BBBB4x16s", 2, AES_256_XTS, AES_256_CTS, PAD_32, identifier)
    fd = os.open(directory, os.O_RDONLY)
    fcntl.ioctl(fd, FS_IOC_SET_ENCRYPTION_POLICY, policy)
    os.close(fd)


def fill(top, rng):
    for number in range(230):
        name = f"{number}-"
        name += "n" * (number + 20 - len(name))
        with open(f"{top}/{name}", "wb") as f:
            f.write(rng.randbytes(rng.choice([0, 1, 100, 4096, 20000])))
    with open(f"{top}/holes", "wb") as f:
        for block in range(0, 60, 2):
            f.seek(block * 4096)
            f.write(rng.randbytes(4096))
        os.posix_fallocate(f.fileno(), 1 << 20, 100000)
    os.link(f"{top}/holes", f"{top}/hard")
    for length in (1, 20, 60, 500):
        os.symlink("t" * length, f"{top}/link{length}")
    os.mkfifo(f"{top}/fifo")
    os.setxattr(f"{top}/holes", "user.name", b"value")
    os.makedirs(f"{top}/below/and below")
    with open(f"{top}/below/and below/file", "wb") as f:
        f.write(rng.randbytes(9000))
    # One block of names, and none at all.
    os.mkdir(f"{top}/empty")


def extents(path):
    fd = os.open(path, os.O_RDONLY)
    buffer = array.array("B", struct.pack("=QQIIII", 0, (1 << 64) - 1, 0, 0, 500, 0) + bytes(56 * 500))
    fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer)
    number = os.fstat(fd).st_ino
    os.close(fd)
    rows = []
    for index in range(struct.unpack_from("=I", buffer, 20)[0]):
        row = struct.unpack_from("=QQQQQI", buffer, 32 + 56 * index)
        rows.append([row[0], row[1], row[2], bool(row[5] & 0x800)])
    return number, rows


def main():
    top = sys.argv[1]
    secret = f"{top}/secret"
    os.mkdir(secret)
    with open(f"{top}/plain", "w") as f:
        f.write("plain\n")
    try:
        encrypt(secret, add_key(top))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOPKG):
            raise
        print(error, file=sys.stderr)
        sys.exit(77)
    fill(secret, random.Random(1))
    fd = os.open(top, os.O_RDONLY)
    ctypes.CDLL(None).syncfs(fd)
    os.close(fd)
    found = {}
    for folder, _, files in os.walk(secret):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                number, rows = extents(path)
                found[number] = rows
    print(json.dumps(found))


main()
