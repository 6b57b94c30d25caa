#!/usr/bin/env python3
"""Prints umbra's image_hash of a raw disk image or device: image_hash.py FILE
With --windows it prints the hash of each window of 16 MiB first. Needs: pip install blake3
The rule is docs/formats/image-hash.md; nothing of umbra is used here."""
import struct
import sys
from blake3 import blake3

WINDOW = 16 << 20

path = sys.argv[-1]
with open(path, "rb", buffering=0) as disk:
    length = disk.seek(0, 2)
    disk.seek(0)
    image = blake3(struct.pack("<Q", length), derive_key_context="umbra 1 image hash")
    for start in range(0, length, WINDOW):
        window = blake3()
        left = min(WINDOW, length - start)
        while left:
            data = disk.read(min(left, 1 << 20))
            if not data:
                sys.exit(f"{path} ends at {disk.tell()}, not at {length}")
            window.update(data)
            left -= len(data)
        if "--windows" in sys.argv:
            print(start // WINDOW, window.hexdigest())
        image.update(window.digest())
print(image.hexdigest())
