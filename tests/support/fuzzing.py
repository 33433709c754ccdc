"""Bodies that a service may be sent: images of every kind, damaged, mislabelled, bombs, other files, broken forms."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
from PIL import Image

HUGE = 100_000
KINDS = ("image/png", "image/jpeg", "image/gif", "image/svg+xml", "application/octet-stream", "text/html", "image/", "")
NAMES = (
    *("x.png", "../../etc/passwd", "..\\..\\boot.ini", "/etc/passwd", ".", "..", "...", ".hidden", "a.b.c.tar.gz", ""),
    *(
        "C:\\a.png",
        "a\x00b.png",
        "a\tb\x07.png",
        "\x1b[2J.png",
        "ä€😀.png",
        "<img src=x onerror=alert(1)>",
        "%2e%2e%2f",
    ),
    *('a"b.png', "x" * 3000, "a;b=c.png", "\u202egnp.exe", "con", " "),
)


def png(width: int, height: int, rows: bytes = b"", bits: int = 8, colour: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    size = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff," + b"\0\0\0\0" + size + b"\0\x02\x02\x44\x01\0;"


def tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, height)]
    tags += [(277, 3, 1), (279, 4, 100)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + bytes(100)


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + bytes(100)


def bombs() -> list[bytes]:
    """Return images that declare 100,000 x 100,000 pixels and the like, or none, and one whose pixels are there."""
    return [
        *(kind(HUGE, HUGE) for kind in (png, gif, tiff, bmp)),
        *(kind(0, 0) for kind in (png, gif, tiff, bmp)),
        *(kind(2**31 - 1, 2**31 - 1) for kind in (png, tiff, bmp)),
        *(kind(1, HUGE) for kind in (png, tiff)),
        png(20_000, 2_000, bytes(20_000 * 2_000 // 8 + 2_000), bits=1, colour=0),
        b"P6 100000 100000 255\n" + bytes(100),
        b"P5 0 0 255\n",
        b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
        b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0\x40\0\0\0\x16\0\0\0" + png(HUGE, HUGE),  # an icon with a PNG in it
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\3\1\x22\0\2\x11\1\3\x11\1\xff\xd9",
    ]


def pictures(random: Random) -> list[bytes]:
    """Return whole images of many modes and formats."""
    generator = np.random.default_rng(random.randrange(2**32))
    width, height = random.choice([(1, 1), (8, 8), (7, 31), (64, 48), (300, 2)])
    noise = generator.integers(0, 256, (height, width, 4), np.uint8)
    rgb, rgba, grey = (Image.fromarray(noise[:, :, channels]) for channels in (slice(3), slice(4), 0))
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((rgb, kind, {}) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")),
        (rgb.resize((16, 16)), "ICO", {}),
        *((rgba, kind, {}) for kind in ("PNG", "TIFF", "WEBP")),
        *((grey.convert("1"), kind, {}) for kind in ("PNG", "TIFF")),
        (grey, "JPEG", {}),
        (rgb.convert("P"), "PNG", {"transparency": 3}),
        (grey.convert("LA"), "PNG", {}),
        (rgb.convert("CMYK"), "JPEG", {}),
        (rgb.convert("CMYK"), "TIFF", {}),
        (rgb.convert("LAB"), "TIFF", {}),
        (rgb.convert("YCbCr"), "TIFF", {}),
        (Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257), "PNG", {}),
        (Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257), "TIFF", {}),
        (Image.fromarray(noise[:, :, 0].astype(np.float32)), "TIFF", {}),
        (Image.fromarray(noise[:, :, 0].astype(np.int32)), "TIFF", {}),
        *((rgb, kind, {"save_all": True, "append_images": [rgb, rgb]}) for kind in ("GIF", "PNG", "WEBP", "TIFF")),
        *((rgb, "JPEG", {"exif": orientation(place)}) for place in (1, 6, 8, 99)),
        (rgb, "JPEG", {"exif": b"Exif\0\0broken"}),
        (rgb, "PNG", {"icc_profile": b"no profile"}),
        (rgb, "JPEG", {"progressive": True}),
    ]
    return [_saved(*each) for each in made]


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[274] = value
    return exif.tobytes()


def _saved(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


OTHERS = (
    b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>alert(1)</script></svg>",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><svg>&b;</svg>",
    b"<!doctype html><img src=x onerror=alert(1)>",
    *(b"%PDF-1.7\n", b"PK\3\4" + bytes(40), b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"{}", b"\0", b""),
    *(
        b"II*\0",
        b"\0\0\0\x20ftypavif",
        b"\0\0\0\x20ftypheic",
        b"8BPS",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"SIMPLE  =",
        b"v/1\1",
    ),
)


def damaged(content: bytes, random: Random) -> bytes:
    """Return a file cut short, with bytes changed, doubled, or as it is."""
    how = random.randrange(5)
    if how == 0 or not content:
        return content
    if how == 1:
        return content[: random.randrange(len(content))]
    if how == 2:
        return content + content
    changed = bytearray(content)
    for _ in range(random.choice([1, 3, 30])):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


DISPOSITIONS = (b'form-data; name="a"', b"form-data", b'attachment; filename="x"', b"")


def form(files: list[bytes], random: Random) -> tuple[str, bytes]:
    """Return the content type and body of a form, which may be malformed."""
    boundary = random.choice(["b", "x" * 60, "----WebKit"])
    body = b""
    for content in files:
        name = random.choice(NAMES).encode("utf-8", "replace")
        disposition = b'form-data; name="a"; filename="%b"' % name
        if random.random() < 0.2:
            disposition = random.choice([b"form-data; name=a; filename*=UTF-8''%b" % name, *DISPOSITIONS])
        head = b"Content-Disposition: " + disposition + b"\r\n"
        if random.random() < 0.2:
            extra = (
                "Content-Transfer-Encoding: base64",
                "Content-Transfer-Encoding: x",
                "no colon",
                ": ",
                "X: " + "y" * 9000,
            )
            head += random.choice(extra).encode() + b"\r\n"
        body += b"--" + boundary.encode() + b"\r\n" + head + b"\r\n" + content + b"\r\n"
    body += b"--" + boundary.encode() + b"--\r\n"
    said = boundary if random.random() < 0.9 else random.choice(["", "other", '"', "y" * 300, "b; boundary=c"])
    return f"multipart/form-data; boundary={said}", damaged(body, random) if random.random() < 0.3 else body


def requests(count: int, seed: int = 0) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield requests: method, path, and options of httpx."""
    random = Random(seed)
    bodies: list[bytes] = []
    queries = (
        *[""] * 12,
        "?top=2",
        "?map=true",
        "?coverage=0.9",
        "?coverage=nan",
        "?threshold=1e999",
        "?top=-1",
        "?%00",
    )
    for place in range(count):
        if place % 200 == 0:
            bodies = [*pictures(random), *bombs(), *OTHERS]
        chosen = [damaged(random.choice(bodies), random) for _ in range(random.choice([1, 1, 1, 2, 5]))]
        if random.random() < 0.4:
            kind, body = form(chosen, random)
        else:
            kind, body = random.choice(KINDS), chosen[0]
        headers = {"Content-Type": kind.encode("utf-8")} if kind else {}
        yield "POST", f"/predict{random.choice(queries)}", {"content": body, "headers": headers}
