"""Pictures beside what they were made from: every kind is read as a person would see it on white paper."""

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from flatnext import pictures
from flatnext.errors import InputError
from flatnext.pictures import PictureError, TooLargeError, convert, holds_pictures, is_grey, is_picture, read_picture

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (8, 8), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    """Return an image as an open file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def read(image, format="PNG", *, channels=3, **options):
    return read_picture(encoded(image, format, **options), size=8, channels=channels)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_pixels_come_back(format):
    assert np.array_equal(read(Image.fromarray(COLOUR), format), COLOUR)
    assert np.array_equal(read(Image.fromarray(GREY), format, channels=1), GREY[..., None])


def test_grey_becomes_three_equal_channels():
    assert np.array_equal(read(Image.fromarray(GREY)), np.repeat(GREY[..., None], 3, axis=2))


def test_colour_becomes_its_luma():
    exact = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read(Image.fromarray(COLOUR), channels=1)[..., 0] - exact).max() <= 0.51


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled(format, channels):
    deep = RANDOM.integers(0, 65536, (8, 8), dtype=np.uint16)
    pixels = read(Image.fromarray(deep), format, channels=channels)
    assert np.array_equal(pixels, np.repeat((deep // 256)[..., None], channels, axis=2))


def test_sixteen_bits_of_either_byte_order():
    deep = RANDOM.integers(0, 65536, (8, 8)).astype(">u2")
    image = Image.frombytes("I;16B", (8, 8), deep.tobytes())
    assert np.array_equal(read(image, "TIFF", channels=1)[..., 0], deep // 256)


def test_sixteen_bits_with_a_transparent_value():
    deep = np.full((8, 8), 20_000, np.uint16)
    deep[0, 0] = 7
    file = encoded(Image.fromarray(deep), transparency=7)
    pixels = read_picture(file, size=8, channels=1)[..., 0]
    assert pixels[0, 0] == 255
    assert set(pixels.ravel().tolist()) == {255, 20_000 // 256}


def png(bits, kind, row, transparent):
    """Return a PNG file of 8 x 8 pixels whose rows are all the same, with a transparent colour."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    parts = (b"IHDR", struct.pack(">IIBBBBB", 8, 8, bits, kind, 0, 0, 0)), (b"tRNS", transparent)
    parts = *parts, (b"IDAT", zlib.compress((b"\0" + row) * 8)), (b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


@pytest.mark.parametrize(
    ("bits", "kind", "row", "key", "value"),
    [
        (1, 0, b"\0", 0, 0),
        (2, 0, b"\x55\x55", 1, 85),
        (4, 0, b"\x88\x88\x88\x88", 8, 136),
        (8, 0, bytes([7] * 8), 7, 7),
        (8, 2, bytes([7, 8, 9] * 8), (7, 8, 9), (7, 8, 9)),
        (16, 2, bytes([18, 52, 128, 0, 255, 255] * 8), (0x1234, 0x8000, 0xFFFF), (18, 128, 255)),
    ],
)
def test_the_transparent_colour_of_any_depth_is_white(bits, kind, row, key, value):
    keys = key if isinstance(key, tuple) else (key,)
    others = [0 if each else 1 for each in keys]
    for transparent, wanted in ((keys, 255), (others, value)):
        found = read_picture(png(bits, kind, row, struct.pack(f">{len(keys)}H", *transparent)), size=8)
        assert np.array_equal(found, np.broadcast_to(wanted, (8, 8, 3)))


def tiff(content, **tags):
    """Return a TIFF file of 8 x 8 grey pixels with these tags (numbers below 65536), which content follows."""
    tags = {"256": 8, "257": 8, "258": 8, "259": 1, "262": 1, "277": 1} | {name[1:]: v for name, v in tags.items()}
    place, size = ("324", "325") if "322" in tags else ("273", "279")
    tags |= {place: 8 + 2 + 12 * (len(tags) + 2) + 4, size: len(content)}
    entries = b"".join(struct.pack("<HHIHH", int(name), 3, 1, tags[name], 0) for name in sorted(tags, key=int))
    return io.BytesIO(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content)


@pytest.mark.parametrize("bits", [8, 16])
def test_white_may_be_zero(bits):
    values = RANDOM.integers(0, 2**bits, (8, 8)).astype("<u2" if bits == 16 else "u1")
    upper = values // (256 if bits == 16 else 1)
    for white, expected in ((1, upper), (0, 255 - upper)):
        file = tiff(values.tobytes(), t258=bits, t262=white, t278=8)
        assert np.array_equal(read_picture(file, size=8, channels=1)[..., 0], expected)


def test_twelve_bits_are_scaled():
    values = RANDOM.integers(0, 4096, (8, 8))
    first, second = values.reshape(-1, 2).T  # two pixels in three bytes
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    file = tiff(packed.tobytes(), t258=12, t278=8)
    assert np.array_equal(read_picture(file, size=8, channels=1)[..., 0], values >> 4)


def test_a_tile_larger_than_its_image_counts():
    content = zlib.compress(bytes(96 * 96))
    file = tiff(content, t259=8, t322=96, t323=96)
    assert not read_picture(file, size=8, channels=1, max_pixels=96 * 96).any()
    with pytest.raises(TooLargeError, match="more than 9,000 pixels"):
        read_picture(file, size=8, channels=1, max_pixels=9000)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_a_white_are_refused(kind):
    with pytest.raises(PictureError, match="nobody knows what is white"):
        read(Image.fromarray(np.full((8, 8), 200, kind)), "TIFF")


@pytest.mark.parametrize(("format", "near"), [("TIFF", 0), ("JPEG", 3)])
def test_inks_become_light(format, near):
    """A JPEG of CMYK holds inverted inks, as Adobe's programs write them."""
    inks = (30, 200, 90, 51)
    expected = [round((255 - ink) * (255 - inks[3]) / 255) for ink in inks[:3]]
    file = encoded(Image.new("CMYK", (8, 8), inks), format, **({"quality": 100} if format == "JPEG" else {}))
    assert format == "TIFF" or b"Adobe" in file.getvalue()
    assert np.abs(read_picture(file, size=8).astype(int) - expected).max() <= near + 1
    grey = np.array(expected) @ [0.299, 0.587, 0.114]
    file.seek(0)
    assert np.abs(read_picture(file, size=8, channels=1) - grey).max() <= near + 2


@pytest.mark.parametrize("channels", [1, 3])
def test_a_palette_with_transparency(channels):
    palette = Image.fromarray((np.arange(64).reshape(8, 8) % 3).astype(np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255, 9, 9, 9] + [0] * 759)
    pixels = read(palette, channels=channels, transparency=bytes([255, 255, 0]))
    colours = np.array([[255, 0, 0], [0, 0, 255], [255, 255, 255]])
    expected = colours if channels == 3 else (colours @ [0.299, 0.587, 0.114]).round()[:, None]
    assert np.array_equal(pixels, expected[np.arange(64).reshape(8, 8) % 3])


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_half_transparent_is_half_white(mode, channels):
    pixels = read(Image.new(mode, (8, 8), (0,) * (len(mode) - 1) + (127,)), channels=channels)
    assert set(pixels.ravel().tolist()) == {128}


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_colours(mode):
    image = Image.new(mode, (8, 8), (50,) * (len(mode) - 1) + (127,))  # half of 100, on half of white
    assert np.abs(convert(image, size=8).astype(int) - 178).max() <= 1


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    file = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(file.getvalue())).n_frames == 2
    assert np.array_equal(read_picture(file, size=8)[0, 0], (255, 0, 0))


TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: p.transpose(1, 0, 2)[::-1],
}
"""How an image is turned to be seen upright, by its EXIF orientation."""


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read(Image.fromarray(COLOUR), exif=exif), TURNS[orientation](COLOUR))


def test_damaged_exif_is_no_fault_of_the_pixels():
    assert np.array_equal(read(Image.fromarray(COLOUR), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0"), COLOUR)


def test_resize_modes():
    wide = np.zeros((20, 60, 3), np.uint8)  # black, with a middle third of red, and a white right third
    wide[:, 20:40, 0] = 255
    wide[:, 40:] = 255
    for turn in (lambda p: p, lambda p: p.transpose(1, 0, 2)):
        image = Image.fromarray(np.ascontiguousarray(turn(wide)))
        crop, pad, stretch = (turn(convert(image, size=12, resize=mode)) for mode in ("crop", "pad", "stretch"))
        assert crop[:, 2:10, 0].min() >= 250
        assert crop[:, 2:10, 1:].max() <= 5
        assert pad[:4].max() == pad[8:].max() == 0
        assert pad[4:8, 9:].min() >= 240
        assert stretch[:, :3].max() <= 5
        assert stretch[:, 9:].min() >= 240


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (1, 1), (9, 7)])
def test_any_shape_becomes_a_square(resize, shape):
    assert convert(Image.new("L", shape, 200), size=8, resize=resize, channels=1).shape == (8, 8, 1)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_shrinking_antialiases(resize):
    board = Image.fromarray((np.indices((224, 224)).sum(0) % 2 * 255).astype(np.uint8))
    pixels = convert(board, size=28, resize=resize, channels=1)
    assert np.abs(pixels.astype(int) - 127.5).max() <= 2  # without it the squares would be black or white


def test_a_large_photograph_is_near_its_full_decoding():
    coarse = Image.fromarray(RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    image = coarse.resize((1200, 800), Image.Resampling.BICUBIC)
    expected = np.asarray(ImageOps.fit(image, (8, 8), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(read(image, "JPEG", quality=95) - expected).max() <= 6


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no image"),
        (b"<svg></svg>", "no image"),
        (encoded(Image.fromarray(COLOUR)).getvalue()[:150], "cut short or damaged"),
    ],
)
def test_what_is_no_image(tmp_path, content, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=reason) as caught:
        read_picture(path, size=8)
    assert str(caught.value) == f"{path} ({caught.value.reason}) cannot be read as an image: repair or remove it"
    with pytest.raises(InputError, match=f"the image .*{reason}"):
        read_picture(io.BytesIO(content), size=8)


def test_files_that_are_none(tmp_path):
    for path, reason, sentence in (
        (tmp_path / "none.png", "missing", "does not exist: give an image file"),
        (tmp_path, "a folder", "is a folder: give the files in it, or use flatnext predict"),
    ):
        with pytest.raises(PictureError) as caught:
            read_picture(path, size=8)
        assert (str(caught.value), caught.value.reason) == (f"{path} {sentence}", reason)


def test_too_many_pixels(monkeypatch):
    file = encoded(Image.new("1", (100, 100)))
    with pytest.raises(PictureError, match=r"more than 9,999 pixels"):
        read_picture(file, size=8, max_pixels=9_999)
    assert read_picture(file, size=8, max_pixels=10_000).shape == (8, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PictureError, match=r"pixels"):
        read_picture(file, size=8)


def test_kinds_by_header(tmp_path):
    names = {"1": True, "L": True, "LA": True, "I;16": True, "RGB": False, "RGBA": False, "P": False, "CMYK": False}
    for mode, grey in names.items():
        path = tmp_path / f"{mode.replace(';', '')}.tif"
        Image.new(mode, (8, 8)).save(path)
        assert is_grey(path) is grey, mode
        assert is_picture(path)
        assert is_picture(path.rename(tmp_path / mode))  # whatever its suffix
    (tmp_path / "notes").write_text("no image")
    assert not is_picture(tmp_path / "notes")
    assert not is_picture(tmp_path)
    assert is_picture(tmp_path / "missing.PNG")


def test_folders_that_hold_pictures(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").touch()
    Image.new("1", (2, 2)).save(tmp_path / "loose.png")
    assert not holds_pictures(tmp_path)
    assert not holds_pictures(tmp_path / "missing")
    (tmp_path / "train" / "cats" / "old").mkdir(parents=True)
    Image.new("1", (2, 2)).save(tmp_path / "train" / "cats" / "old" / "x.JPG", "JPEG")
    assert holds_pictures(tmp_path)


def test_pictures_without_a_suffix_are_known_by_their_content(tmp_path):
    (tmp_path / "cats" / "old").mkdir(parents=True)
    (tmp_path / "cats" / "labels").write_text("no image")
    assert not holds_pictures(tmp_path)
    Image.new("1", (2, 2)).save(tmp_path / "cats" / "old" / "x", "JPEG")
    assert holds_pictures(tmp_path)


def test_threads_leave_the_filters_of_warnings_alone():
    file = encoded(Image.new("L", (64, 64))).getvalue()
    before = list(warnings.filters)

    def work():
        for _ in range(20):
            read_picture(io.BytesIO(file), size=8)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    assert pictures._SILENCE.readers == 0


def test_a_warning_of_pillow_is_not_shown(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # of which 64 are worth a warning, and 121 an error
    assert read(Image.fromarray(GREY), channels=1).shape == (8, 8, 1)


def test_no_torch():
    code = "import sys, flatnext.pictures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
