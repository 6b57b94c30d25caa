"""Writers in a mounted file system: some hundred files, or what one feature of ext is made for.

Usage: workload.py DIR SEED WHAT. WHAT is one of
  write       three processes write, change and fsync at once, each below DIR/w0..w2; what an
              earlier run left there is renamed, changed and deleted too
  fill        writes until nothing fits, and deletes a part of it
  fragment    files written block by block in turn, with holes and unwritten ranges
  attributes  attributes that need inodes of their own
  names       more names in one directory than a hash tree of two levels holds
  late        a few fsynced changes on their own, which a fast commit can hold
Ends without a sync, so that the last operations are in no committed transaction.
"""

import ctypes
import errno
import os
import random
import shutil
import stat
import sys

JBD2_MAGIC = bytes.fromhex("c03b3998")
FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
LIBC = ctypes.CDLL(None, use_errno=True)


def fsync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def content(rng):
    size = rng.choice([0, 1, 60, 1000, 4096, 5000, rng.randrange(40000)])
    data = rng.randbytes(size)
    # Blocks that the journal must escape, where it journals data.
    for at in range(0, size - 4, 1024):
        if rng.random() < 0.2:
            data = data[:at] + JBD2_MAGIC + data[at + 4:]
    return data


def write(rng, path):
    with open(path, "wb") as f:
        f.write(content(rng))
        if rng.random() < 0.2:
            f.seek(rng.randrange(1 << 20))
            f.write(rng.randbytes(500))
        f.flush()
        if rng.random() < 0.7:
            os.fsync(f.fileno())


def attributes(rng, path):
    try:
        for size in rng.sample([3, 40, 200, 700], 2):
            os.setxattr(path, b"user.n%d" % size, rng.randbytes(size))
        os.setxattr(path, b"trusted.t", b"x")
    except OSError:
        pass  # No room: as good as any other state.
    os.chown(path, rng.randrange((1 << 32) - 1), rng.choice([0, 65535, 65536, 69999, (1 << 32) - 2]))
    if rng.random() < 0.3:
        os.utime(path, ns=(rng.randrange(1 << 62), rng.randrange(-(1 << 60), 1 << 62)))


def make(rng, top, number):
    path = f"{top}/{number:04}-{'n' * rng.randrange(1, 120)}"
    kind = rng.random()
    if kind < 0.70:
        write(rng, path)
        os.chmod(path, rng.randrange(0o10000))
        if rng.random() < 0.4:
            attributes(rng, path)
        if rng.random() < 0.15:
            os.link(path, path + ".link")
    elif kind < 0.85:
        os.symlink(b"t" * rng.choice([1, 59, 60, 61, 500]), path)
    elif kind < 0.90:
        rdev = os.makedev(rng.randrange(4096), rng.randrange(1 << 20))
        os.mknod(path, stat.S_IFCHR | 0o600, rdev)
    elif kind < 0.93:
        os.mkfifo(path)
    else:
        os.mkdir(path)
        attributes(rng, path)
        for inner in range(rng.randrange(60)):
            write(rng, f"{path}/{inner}-{'m' * 100}")
        fsync(path)


def change(rng, path):
    kind = rng.random()
    info = os.lstat(path)
    if kind < 0.3:
        if stat.S_ISDIR(info.st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    elif kind < 0.5:
        os.rename(path, path + "-renamed")
    elif stat.S_ISREG(info.st_mode):
        if kind < 0.7:
            os.truncate(path, rng.randrange(60000))
        else:
            write(rng, path)
        fsync(path)


def writer(top, seed):
    rng = random.Random(seed)
    os.makedirs(top, exist_ok=True)
    for name in sorted(os.listdir(top)):
        if rng.random() < 0.6:
            change(rng, f"{top}/{name}")
    base = rng.randrange(10000)
    for number in range(120):
        try:
            make(rng, top, base + number)
        except FileExistsError:
            pass


def writers(top, seed):
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            try:
                writer(f"{top}/w{number}", seed * 10 + number)
            except OSError as error:
                # A full disk is a state too. So is what a journal too busy for more data (data=journal,
                # a small log) leaves: the kernel then ends a write with EAGAIN.
                if error.errno not in (errno.ENOSPC, errno.EAGAIN):
                    print(error, file=sys.stderr)
                    os._exit(1)
            os._exit(0)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def fill(top, seed):
    rng = random.Random(seed)
    top = f"{top}/full"
    os.makedirs(top, exist_ok=True)
    for number in range(100000):
        try:
            with open(f"{top}/{seed}-{number}", "wb") as f:
                f.write(rng.randbytes(rng.choice([10, 3000, 50000, 400000])))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            break
    else:
        raise RuntimeError("it does not fill up")
    # What could not be allocated any more is written back or lost now.
    fd = os.open(top, os.O_RDONLY)
    LIBC.syncfs(fd)
    os.close(fd)
    for name in sorted(os.listdir(top)):
        if rng.random() < 0.3:
            os.unlink(f"{top}/{name}")


def fallocate(fd, mode, at, length):
    call = LIBC.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(fd, mode, at, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EOPNOTSUPP:
            raise OSError(number, "fallocate")


def fragment(top, seed):
    rng = random.Random(seed)
    top = f"{top}/fragmented"
    os.makedirs(top, exist_ok=True)
    files = [os.open(f"{top}/{n}", os.O_CREAT | os.O_RDWR) for n in range(6)]
    # Each fsync allocates what was written so far: the files' blocks alternate.
    for turn in range(250):
        for fd in files:
            os.pwrite(fd, rng.randbytes(4096), turn * 4096)
            os.fdatasync(fd)
    for number, fd in enumerate(files):
        for _ in range(40):
            at = rng.randrange(240) * 4096
            fallocate(fd, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, at, rng.choice([1024, 4096, 20000]))
        # Unwritten ranges, one of them written in the middle, one beyond the end.
        for at, length in [(1 << 20, 300000), (4 << 20, 200000), (30 << 20, 50000)]:
            fallocate(fd, 0, at, length)
        os.pwrite(fd, rng.randbytes(5000), (1 << 20) + 100000)
        fallocate(fd, FALLOC_KEEP_SIZE, 40 << 20, 100000)
        # Far enough, in one of them, for the third level of a block map.
        os.pwrite(fd, b"far", 300 << 20 if number == 0 else 48 << 20)
        os.close(fd)


def large_attributes(top, seed):
    rng = random.Random(seed)
    open(f"{top}/large", "w").close()
    for n in (3000, 20000, 65536):
        os.setxattr(f"{top}/large", f"user.large{n}", rng.randbytes(n))


def names(top, _):
    """124 nodes of 126 leaves with two such names each do not hold these."""
    os.mkdir(f"{top}/many")
    for group in range(2):
        first = f"{top}/many/file{group}"
        open(first, "w").close()
        for number in range(20000):
            os.link(first, f"{top}/many/{group}{number:05}-{'x' * 243}")


def late(top, seed):
    rng = random.Random(seed)
    for number in range(30):
        path = f"{top}/late{number}"
        with open(path, "wb") as f:
            f.write(rng.randbytes(rng.randrange(9000)))
            f.flush()
            os.fsync(f.fileno())


def main():
    top, seed, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    works = {
        "write": writers,
        "fill": fill,
        "fragment": fragment,
        "attributes": large_attributes,
        "names": names,
        "late": late,
    }
    sys.exit(works[what](top, seed))


main()
