"""Writers that fsync: makes and changes some hundred files below a directory.

Usage: workload.py DIR SEED. Three processes write at once, each below DIR/w0..w2; what an earlier
run left there is renamed, changed and deleted too. Ends without a sync, so that the last
operations are in no committed transaction.
"""

import errno
import os
import random
import shutil
import stat
import sys

JBD2_MAGIC = bytes.fromhex("c03b3998")


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
    os.chown(path, rng.randrange(1 << 31), rng.randrange(70000))
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


def main():
    top, seed = sys.argv[1], int(sys.argv[2])
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
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


main()
