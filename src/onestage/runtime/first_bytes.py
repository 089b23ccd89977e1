"""What an image file is, by its first bytes."""

from __future__ import annotations

import re

_READ = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WebP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "BMP": re.compile(rb"BM"),
    "TIFF": re.compile(rb"II[*+]\x00|MM\x00[*+]"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "AVIF": re.compile(rb"....ftyp(avif|avis)", re.DOTALL),
    "JPEG 2000": re.compile(rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
}
_UNREAD = {
    "HEIC (HEIF)": re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL),
    "PPM": re.compile(rb"P[1-6]\s"),
    "JPEG XL": re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
    # the colour map, the kind of the pixels, and their bits (Truevision TGA 2.0, fields 2, 3 and 5.5)
    "TGA": re.compile(rb".[\x00\x01][\x01-\x03\x09-\x0b].{13}[\x08\x0f\x10\x18\x20]", re.DOTALL),
}


def kind_of(data: bytes) -> str | None:
    """The format of an image that is read; None for anything else."""
    return next((kind for kind, pattern in _READ.items() if pattern.match(data)), None)


def why_unread(data: bytes) -> str:
    """What a file is instead of an image that is read, and the mend."""
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in place of the image; fetch the images by git lfs pull"
    if kind := next((kind for kind, pattern in _UNREAD.items() if pattern.match(data)), None):
        return f"a {kind} image, which is not read here; convert it to JPEG or PNG"
    what = f"it begins with {data[:12]!r}" if data else "the file is empty"
    return f"not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or JPEG 2000 image ({what}); replace or delete it"
