# SPDX-License-Identifier: Apache-2.0
"""Install media as small as can be: an ISO 9660 file system with nothing in it but what the firmware boots."""

from __future__ import annotations

import struct

SECTOR = 2048

INSTALLED = b"INSTALLED"
"""What the machine says on its serial port, and writes at the start of the disk's second sector."""


def make_media() -> bytes:
    """Return the file: descriptors, boot catalogue and boot sector (ECMA-119; El Torito 1.0)."""
    primary = bytearray(SECTOR)
    primary[:7] = b"\1CD001\1"
    primary[8:72] = b" " * 64
    struct.pack_into("<I", primary, 80, 21)
    boot = bytearray(SECTOR)
    boot[:7] = b"\0CD001\1"
    boot[7:39] = b"EL TORITO SPECIFICATION".ljust(32, b"\0")
    struct.pack_into("<I", boot, 71, 19)
    end = b"\xffCD001\1".ljust(SECTOR, b"\0")
    validation = bytearray(32)
    validation[0], validation[30:] = 1, b"\x55\xaa"
    struct.pack_into("<H", validation, 28, -sum(struct.unpack("<16H", validation)) & 0xFFFF)
    entry = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, 20).ljust(32, b"\0")
    catalogue = (bytes(validation) + entry).ljust(SECTOR, b"\0")
    return bytes(16 * SECTOR) + bytes(primary) + bytes(boot) + end + catalogue + _program().ljust(SECTOR, b"\0")


def _program() -> bytes:
    """16-bit code at 0x7c00: say INSTALLED on the serial port, write it to the first hard disk, switch off."""
    code = bytearray(
        b"\xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c\xfb"  # segments and stack
        b"\xbe\x00\x7e"  # mov si, text
        b"\xac\x84\xc0\x74\x06"  # next: lodsb; test al, al; jz out
        b"\xba\xf8\x03\xee"  # mov dx, 0x3f8; out dx, al
        b"\xeb\xf5"  # jmp next
        b"\xb8\x01\x03\xb9\x02\x00\xba\x80\x00\xbb\x00\x7e\xcd\x13"  # int 13h: write 1 sector, CHS 0/0/2, disk 0x80
        b"\xba\x04\x06\xb8\x00\x20\xef"  # q35: power off, port 0x604
        b"\xf4\xeb\xfd"  # hlt; again
    )
    return bytes(code).ljust(512, b"\x90") + (INSTALLED + b"\r\n\0").ljust(512, b"\0")
