#!/usr/bin/env python3
"""Encodes the handshake messages of the golden file from docs/formats/wire.md alone.

    wire_handshake.py > testdata/formats/v1/wire-handshake.txt
    wire_handshake.py --check testdata/formats/v1/wire-handshake.txt
"""

import struct
import sys


def head(major, number):
    for limit, code, form in ((24, None, None), (1 << 8, 24, ">B"), (1 << 16, 25, ">H"), (1 << 32, 26, ">I")):
        if number < limit:
            return bytes([major << 5 | number]) if code is None else bytes([major << 5 | code]) + struct.pack(form, number)
    return bytes([major << 5 | 27]) + struct.pack(">Q", number)


def cbor(value):
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    if isinstance(value, dict):
        return head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in sorted(value.items()))
    raise TypeError(value)


def frame(number, fields):
    body = cbor([number, [fields]])
    return struct.pack("<I", len(body)) + body


STORE = b"fedcba9876543210"
MESSAGES = {
    "hello": frame(0, {0: 1, 1: 1, 2: "web1", 3: "umbra 0.1.0"}),
    "hello-without-machine": frame(0, {0: 1, 1: 300, 3: "umbra 0.1.0"}),
    "enroll": frame(1, {0: 1, 1: 1, 2: b"0123456789abcdef", 3: "web1", 4: "umbra 0.1.0"}),
    "welcome": frame(0, {0: 1, 1: STORE, 2: "web1", 3: {0: 4096, 1: 8, 2: 32}, 4: "umbra-vault 0.1.0"}),
    "refused": frame(1, {0: 13, 1: "upgrade"}),
    "enrolled": frame(2, {0: b"\x11" * 16, 1: "web1", 2: STORE}),
}


def main():
    text = "".join(f"{name} {message.hex()}\n" for name, message in MESSAGES.items())
    if sys.argv[1:2] == ["--check"]:
        with open(sys.argv[2], encoding="ascii") as golden:
            if golden.read() != text:
                sys.exit(f"{sys.argv[2]} is not what docs/formats/wire.md says")
    else:
        sys.stdout.write(text)


main()
