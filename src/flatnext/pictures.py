"""Decoding a picture: a file as square uint8 pixels, the same in training, prediction and service. Without torch."""

from __future__ import annotations

import functools
import threading
import warnings
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flatnext.errors import InputError
from flatnext.files import as_typed, is_address, open_regular
from flatnext.progress import printable

Resize = Literal["crop", "pad", "stretch"]

FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""A file with one of these is meant as an image: where it cannot be read, that is an error."""

BITS, PHOTOMETRIC, TILE_WIDTH, TILE_LENGTH = 258, 262, 322, 323
"""Tags of a TIFF file."""

WHITE_IS_ZERO = 0

MOST_LOOKED_AT = 1000
"""Files of a folder that are looked at to learn whether it holds images."""

FEW = 5
"""Of these, files whose content is looked at."""

MAX_PIXELS = 89_478_485
"""Pillow's own limit: an image of so many pixels takes a quarter of a gigabyte."""

DRAFT = 2
"""A JPEG is decoded at an eighth, quarter or half of its size where that has so many times the pixels asked for."""

PAD = 0
"""The bars of `pad` are black, as the border is that `crop_padding` adds: both say where an image ends."""


class PictureError(InputError):
    """A picture that cannot be read. `source` says which, `reason` why, and `sentence` is what its message says."""

    def __init__(self, source: Path | str, reason: str, sentence: str | None = None) -> None:
        self.source, self.reason = printable(as_typed(source)), reason
        sentence = sentence or f"({reason}) cannot be read as an image: repair or remove it"
        super().__init__(f"{self.source} {sentence}")


class TooLargeError(PictureError):
    """A picture of more pixels than are taken."""


def read_picture(
    file: Path | BinaryIO, *, size: int, resize: Resize = "crop", channels: int = 3, max_pixels: int | None = None
) -> np.ndarray:
    """Return an image file as uint8 pixels, `size` x `size` x `channels`.

    It is turned as its EXIF data say, put on white where it is transparent, converted to RGB or to grey, and brought to
    a square by `square`. Of an animation it is the first frame. Of 12 or 16 bits the upper 8 are taken. Colour becomes
    grey by its luma (ITU-R 601-2), as Pillow has it; grey becomes colour by equal channels.

    Args:
        file: a path, or an open file that can seek.
        size: pixels a side.
        resize: how a picture that is not square becomes one; see `square`.
        channels: 3 for RGB, 1 for grey.
        max_pixels: a larger picture is refused before it is decoded (default: `MAX_PIXELS`).

    Raises:
        PictureError: it is missing, damaged, no image, too large, or of a kind that has no white.
        TooLargeError: it has more pixels.
    """
    source = file if isinstance(file, Path) else str(getattr(file, "name", "the image"))
    most = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with _SILENCE:
            if not isinstance(file, Path):
                return _read(file, size, resize, channels, most)
            if is_address(file):
                raise PictureError(source, "an address on the web, where nothing is fetched from: download it first")
            if file.is_dir():
                raise PictureError(source, "a folder", "is a folder: give the files in it, or use flatnext predict")
            if not file.exists():
                raise PictureError(source, "missing", "does not exist: give an image file")
            if not file.is_file():
                raise PictureError(source, "no regular file")
            with open_regular(file) as opened:
                return _read(opened, size, resize, channels, most)
    except _UnfitError as error:
        raise PictureError(source, str(error)) from None
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise TooLargeError(source, f"more than {most:,} pixels") from None
    except Exception as error:  # Pillow's readers raise many kinds, SyntaxError among them
        raise PictureError(source, _reason(error)) from None


def convert(image: Image.Image, *, size: int, resize: Resize = "crop", channels: int = 3) -> np.ndarray:
    """Return an open image as `read_picture` does, but a JPEG decoded at its full size.

    `PictureError`: its pixels cannot be read or have no white.
    """
    try:
        with _SILENCE:
            return _convert(image, size, resize, channels)
    except _UnfitError as error:
        raise PictureError("the image", str(error)) from None
    except Exception as error:  # as above: an image may be read only now
        raise PictureError("the image", _reason(error)) from None


def square(image: Image.Image, size: int, resize: Resize = "crop") -> np.ndarray:
    """Return an RGB or grey image as `size` x `size` x channels bytes, resized by Lanczos, which antialiases.

    `crop`: its shorter side is resized, and its middle kept. `pad`: its longer side is resized, and black bars fill the
    rest. `stretch`: both sides are resized, whatever their ratio.
    """
    if resize == "stretch":
        pixels = image.resize((size, size), Image.Resampling.LANCZOS)
    elif resize == "pad":
        sides = [max(1, round(side * size / max(image.size))) for side in image.size]
        pixels = Image.new(image.mode, (size, size), PAD)
        small = image.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
        pixels.paste(small, ((size - sides[0]) // 2, (size - sides[1]) // 2))
    else:
        pixels = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(pixels).reshape(size, size, -1)


def is_picture(path: Path) -> bool:
    """Return whether a file is meant as an image, or is no regular file, so that reading it tells what is wrong.

    An image is what begins as one, whatever its suffix, and what has an image's suffix. A folder is none.
    """
    if path.is_dir():
        return False
    return path.suffix.lower() in SUFFIXES or not path.is_file() or _mode(path) is not None


def holds_pictures(folder: Path) -> bool:
    """Return whether a folder has folders with images in them, by the first files in each.

    Of a thousand the names are looked at, and if none is an image's the content of a few.
    """
    try:
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        files = [list(islice(path.rglob("*"), MOST_LOOKED_AT)) for path in inside]
        if any(file.suffix.lower() in SUFFIXES for each in files for file in each):
            return True
        return any(_mode(file) is not None for each in files for file in islice(filter(Path.is_file, each), FEW))
    except OSError:
        return False


def is_grey(path: Path) -> bool:
    """Return whether an image file has one channel, apart from transparency. One that cannot be read is taken for grey.

    Its header alone is read: an image whose three channels happen to be equal is not grey.
    """
    mode = _mode(path)
    return mode is None or mode in ("1", "L", "LA", "La", "") or mode.startswith("I")


def _mode(path: Path) -> str | None:
    """Return the mode of an image by its header, "" where it is too large, None where it is no image."""
    try:
        with _SILENCE, open_regular(path) as file, Image.open(file, formats=_formats()) as image:
            return image.mode
    except Image.DecompressionBombError:
        return ""
    except Exception:  # Pillow's readers raise many kinds
        return None


@functools.cache
def _formats() -> list[str]:
    """Return those of `FORMATS` that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


class _UnfitError(Exception):
    """Why an image is not taken."""


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image, or of an unknown format"
    return error.strerror if isinstance(error, OSError) and error.strerror else "cut short or damaged"


def _read(file: BinaryIO, size: int, resize: Resize, channels: int, max_pixels: int) -> np.ndarray:
    with Image.open(file, formats=_formats()) as image:
        if max(image.width * image.height, _tile(image)) > max_pixels:
            raise Image.DecompressionBombError
        image.draft(None, (DRAFT * size, DRAFT * size))
        return _convert(image, size, resize, channels)


def _tile(image: Image.Image) -> int:
    """Return the pixels of a tile of a TIFF file, which is decoded as a whole and may be larger than the image."""
    tags = getattr(image, "tag_v2", {})
    return int(tags.get(TILE_WIDTH, 0)) * int(tags.get(TILE_LENGTH, 0))


def _convert(image: Image.Image, size: int, resize: Resize, channels: int) -> np.ndarray:
    _check_numbers(image)
    tiles = getattr(image, "tile", ()) if image.format == "PNG" else ()
    rawmode = str(tiles[0][3]) if tiles else ""
    image.load()
    if factor := KEYED.get(rawmode):
        _scale_transparent(image, factor)
    tags = getattr(image, "tag_v2", {})  # read now: a turned image has none
    negative, bits = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO, 12 if 12 in tags.get(BITS, ()) else 16
    return square(_on_white(_upright(image), "L" if channels == 1 else "RGB", negative, bits), size, resize)


KEYED = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}
"""By what the transparent colour of a PNG file is in the 8 bits of its pixels, where it is kept in the file's own."""


def _scale_transparent(image: Image.Image, factor: float) -> None:
    """Put the transparent colour of a PNG file into the levels of its pixels, as Pillow has decoded them."""
    key = image.info.get("transparency")
    if isinstance(key, int):
        image.info["transparency"] = int(key * factor)
    elif isinstance(key, tuple):
        image.info["transparency"] = tuple(int(value * factor) for value in key)


def _check_numbers(image: Image.Image) -> None:
    """Raise `_UnfitError` for pixels whose type does not say what is white."""
    bits = image.tag_v2.get(BITS, ()) if image.mode == "I" and hasattr(image, "tag_v2") else ()  # of a TIFF file
    if image.mode == "F" or 32 in bits:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise _UnfitError(f"{kind} pixels, of which nobody knows what is white")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data of an image whose pixels are whole
        return image


def _on_white(image: Image.Image, mode: str, negative: bool, bits: int) -> Image.Image:
    """Return an image in RGB or L as one sees it on white paper; `bits` are those of a pixel that has more than 8."""
    if image.mode.startswith("I"):
        image = _eight_bits(image, negative, bits)
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    try:
        # To grey by way of RGB, unless it is grey: Pillow has no luma of inks.
        return image if image.mode == mode else (image if image.mode == "1" else image.convert("RGB")).convert(mode)
    except ValueError:
        raise _UnfitError(f"colours in {image.mode}, of which there is no plain way to RGB") from None


def _eight_bits(image: Image.Image, negative: bool, bits: int) -> Image.Image:
    """Return a grey image of 12 or 16 bits with the upper 8: Pillow itself would turn all above 255 into white.

    A negative has zero for white, which Pillow minds with 8 bits alone. Of 12 bits Pillow gives values up to 4095.
    """
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise _UnfitError(f"pixels from {values.min()} to {values.max()}, of which nobody knows what is white")
    grey = Image.fromarray((values >> bits - 8).astype(np.uint8))
    grey = ImageOps.invert(grey) if negative else grey
    if isinstance(transparent := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


class _Silence:
    """Silences Pillow's warnings, which do not name the file, while any thread reads a picture."""

    def __init__(self) -> None:
        self.lock, self.readers, self.caught = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            self.readers += 1
            if self.readers == 1:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.readers -= 1
            if self.readers == 0:
                self.caught.__exit__(None, None, None)


_SILENCE = _Silence()
