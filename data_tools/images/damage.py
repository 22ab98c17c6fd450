"""Damage that Pillow does not report: it returns pixels that the file does not hold.

Only what a format allows to detect: PNG and TIFF's deflate have checksums, which Pillow and libtiff do not
compare. A JPEG's scans must be complete and use up their data; libjpeg warns about this, Pillow does not. Raw
pixels (BMP, PPM, plain TIFF) and WebP have no checksum.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image, TiffImagePlugin

HOLE = 512
"""Zero bytes in a row that no WebP encoder writes: a flat image with so many would be wider than 16,384."""
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
FRAMES, PROGRESSIVE = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, (0xC2, 0xCA)
TABLES, SCAN, END = 0xC4, 0xDA, 0xD9
NO_BIT = -1
ZEROS = bytes(32)
"""More zero bytes in a row than a JPEG's blocks have where zeros encode coefficients."""
COMPRESSION, JPEG_TABLES = 259, 347
RUNS = (1, 2)
"""Run-length codings of a BMP: in bytes, in half bytes."""
DEFLATE, TIFF_JPEG = (8, 32_946), 7
MAX_STRIP = 1 << 30
"""Bytes that the pixels of one strip or tile may unpack to: 12 for each pixel of the largest image."""
OFFSETS_AND_SIZES = ((273, 279), (324, 325))
"""TIFF tags with the offsets and sizes of strips, and of tiles."""


def find_damage(opened: Image.Image, data: bytes) -> str | None:
    """What is wrong with a file that Pillow has read; None if no damage can be detected.

    opened: the loaded image, of its class in Pillow. data: the file that it was opened from.
    """
    if opened.format == "PNG":
        return _png(data)
    if opened.format in ("JPEG", "MPO"):
        return _scan_fault(data) or _jpeg_warning(data)
    if opened.format == "BMP":
        return _bmp(data)
    if opened.format == "WEBP":
        return _webp(data)
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        return _tiff(opened.tag_v2, data)
    return None


def _png(data: bytes) -> str | None:
    offset = 8
    while offset + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if end > len(data):
            break
        if zlib.crc32(memoryview(data)[offset + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            return f"the checksum of its chunk {kind.decode('latin-1')} at byte {offset:,} is wrong"
        if kind == b"IEND":
            return None
        offset = end
    return "it is truncated: it has no end mark"


def _jpeg_warning(data: bytes) -> str | None:
    """What libjpeg warns about, such as data that ends before the pixels do; decodes at an eighth of the
    size."""
    import simplejpeg

    try:
        space = simplejpeg.decode_jpeg_header(data)[2]
        mode = "CMYK" if space in ("CMYK", "YCCK") else "GRAY"
        simplejpeg.decode_jpeg(data, mode, min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        # The prefix "tj" means that TurboJPEG does not support this kind of JPEG, which Pillow has read.
        return None if str(error).startswith("tj") else str(error)
    return None


def _scan_fault(data: bytes) -> str | None:
    """Why a JPEG is incomplete: the scans must give every coefficient down to its last bit, and no scan may
    have a hole."""
    bits: dict[int, list[int]] = {}
    shortest: dict[int, int] = {}
    progressive = False
    for kind, body, scanned in _segments(data):
        if kind in FRAMES:
            progressive = kind in PROGRESSIVE
            bits = {body[6 + 3 * number]: [NO_BIT] * 64 for number in range(body[5])}
        elif kind == TABLES:
            shortest |= _shortest_codes(body)
        elif kind == SCAN:
            pairs, (start, stop, shift) = body[1 : 1 + 2 * body[0]], body[1 + 2 * body[0] : 4 + 2 * body[0]]
            for component in pairs[::2]:
                for index in range(start, stop + 1) if progressive else range(64):
                    if bits[component][index] != (shift >> 4 or NO_BIT):
                        return "scans are missing: one goes on from another that is not there"
                    bits[component][index] = shift & 15
            # A run of zeros may be legal: blocks without coefficients, where a code of zeros means that, or
            # refinement bits of the first coefficient.
            codes = [shortest.get(0x10 | table & 15, 0) for table in pairs[1::2]]
            if not (progressive and start == 0) and any(code & 15 for code in codes) and ZEROS in scanned:
                return f"a scan has a hole: {len(ZEROS)} zero bytes in a row"
        elif kind == END:
            short = sum(bit != 0 for component in bits.values() for bit in component)
            return f"scans are missing: {short} of {64 * len(bits)} numbers are not whole" if short else None
    return "it is truncated: it has no end mark"


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The markers of a JPEG, each with its parameters and, for a scan, the data that follow."""
    found = MARKER.search(data, 2)
    while found:
        kind, offset = data[found.end() - 1], found.end()
        length = 0 if kind == END else int.from_bytes(data[offset : offset + 2])
        found = MARKER.search(data, offset + length)
        after = data[offset + length : found.start() if found else None] if kind == SCAN else b""
        yield kind, data[offset + 2 : offset + length], after


def _shortest_codes(body: bytes) -> dict[int, int]:
    """The symbol of the all-zeros code in each Huffman table; tables from 16 on are for AC coefficients."""
    codes, offset = {}, 0
    while offset + 17 < len(body):
        codes[body[offset]] = body[offset + 17]
        offset += 17 + sum(body[offset + 1 : offset + 17])
    return codes


def _bmp(data: bytes) -> str | None:
    """Why the runs of a run-length coded BMP do not cover every pixel; Pillow paints the rest black."""
    if data[14] < 40:  # an old header without compression
        return None
    offset, width, height, coding = (struct.unpack_from("<i", data, at)[0] for at in (10, 18, 22, 30))
    if coding not in RUNS:
        return None
    column = row = 0
    while row + (column >= width) < abs(height) and offset + 2 <= len(data):
        count, value = data[offset : offset + 2]
        offset += 2
        if count:
            column += count
        elif value > 2:  # `value` literal pixels
            column += value
            size = value if coding == 1 else (value + 1) // 2
            offset += size + size % 2
        elif value == 0 and column >= width:
            column, row = 0, row + 1
        else:  # the end, a jump, or a line that ends early
            return f"its runs leave pixels out in line {row + 1} of {abs(height)}"
    return None


def _webp(data: bytes) -> str | None:
    offset = 12
    while offset + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, offset)
        if kind in (b"VP8 ", b"VP8L", b"ALPH") and bytes(HOLE) in data[offset + 8 : offset + 8 + length]:
            return f"its pixels have a hole: {HOLE} zero bytes in a row"
        offset += 8 + length + length % 2
    return None


def _tiff(tags: Any, data: bytes) -> str | None:
    check = {**dict.fromkeys(DEFLATE, _deflate_fault), TIFF_JPEG: _jpeg_warning}.get(tags.get(COMPRESSION))
    if check is None:
        return None
    head = tags.get(JPEG_TABLES, b"")[:-2] if tags[COMPRESSION] == TIFF_JPEG else b""
    for offsets, sizes in OFFSETS_AND_SIZES:
        for offset, size in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False):
            part = data[offset : offset + size]
            if fault := check(head + part[2:] if head else part):
                return f"its pixels at byte {offset:,} are damaged: {fault}"
    return None


def _deflate_fault(part: bytes) -> str | None:
    unpacker, size = zlib.decompressobj(), 0
    try:
        while part and not unpacker.eof and size < MAX_STRIP:
            size += len(unpacker.decompress(part, 1 << 20))
            part = unpacker.unconsumed_tail
    except zlib.error as error:
        return str(error)
    return None if unpacker.eof else "they do not end where they should"
