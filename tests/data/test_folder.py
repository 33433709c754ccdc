"""A folder of images: read upright, square and in order, and every fault named."""

import os
import shutil
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from flatnext import config, pictures
from flatnext.data import describe, fingerprint, load, partition
from flatnext.data import folder as folders
from flatnext.data.normalization import channel_statistics
from flatnext.errors import InputError
from flatnext.pictures import convert, square
from flatnext.progress import Display

RED, BLUE = (255, 0, 0), (0, 0, 255)


def paint(path, colour=RED, size=(32, 32), **options):
    """Write an image of one colour, (width, height) pixels large."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def paint_classes(folder, count=5):
    for number in range(count):
        paint(folder / "blue" / f"{number}.png", BLUE)
        paint(folder / "red" / f"{number}.png", RED)


def notes(dataset):
    """Return the notes but for those on copies: images of one colour are copies of each other."""
    return tuple(note for note in dataset.notes if "to the pixel" not in note)


def refused(folder, *words, **options):
    with pytest.raises(InputError) as caught:
        load("folder", folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


@pytest.mark.parametrize(
    ("train", "held_out"), [("train", "test"), ("train", "val"), ("Train", "Validation"), ("TRAIN", "Test")]
)
def test_train_and_test_folders(tmp_path, train, held_out):
    paint_classes(tmp_path / train, 3)
    paint(tmp_path / held_out / "red" / "one.png", RED)
    dataset = load("folder", tmp_path)
    assert dataset.classes == ("blue", "red")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [1]
    assert dataset.train.images.shape == (6, 3, 32, 32)
    for split in (dataset.train, dataset.test):
        expected = torch.tensor([BLUE, RED], dtype=torch.uint8)[split.labels][:, :, None, None]
        assert torch.equal(split.images, expected.expand(split.images.shape))
    assert (dataset.normalization.mean[0], dataset.normalization.mean[2]) == (0.5, 0.5)
    assert dataset.normalization.std == (0.5, 1.0, 0.5)  # green never changes


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_val_beside_test_chooses_the_epoch(tmp_path, name):
    paint_classes(tmp_path / "train", 10)
    paint_classes(tmp_path / name, 2)
    paint(tmp_path / "test" / "red" / "one.png")
    dataset = load("folder", tmp_path)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (20, 4, 1)
    assert notes(dataset) == (
        f"{tmp_path / name} holds the validation images",
        "no test images of blue: the test says nothing about them",
    )
    divided = partition(dataset, config.Data())
    assert (divided.train, divided.validation) == (dataset.train, dataset.validation)
    assert partition(dataset, config.Data(validation=0)).validation is None
    with pytest.raises(InputError, match=r"validation is 3: .* of its own: leave it out"):
        partition(dataset, config.Data(validation=3))


def test_few_images(tmp_path):
    paint_classes(tmp_path / "pets", 1)
    refused(tmp_path / "pets", "one image of each class", "give at least two of each", tmp_path / "pets" / "test")
    paint(tmp_path / "pets" / "red" / "1.png")
    dataset = load("folder", tmp_path / "pets")
    assert (len(dataset.train), len(dataset.test)) == (2, 1)
    assert notes(dataset) == ("no test images of blue: the test says nothing about them",)


@pytest.mark.parametrize("name", ["test", "val", "Valid"])
def test_an_empty_folder_that_is_called_as_a_part_is_no_class(tmp_path, name):
    paint_classes(tmp_path, 20)
    (tmp_path / name).mkdir()
    assert load("folder", tmp_path).classes == ("blue", "red")


@pytest.mark.parametrize("name", ["test", "val", "Valid", "train"])
def test_a_class_that_is_called_as_a_part_is_asked_about(tmp_path, name):
    paint_classes(tmp_path, 20)
    paint(tmp_path / name / "one.png")
    refused(tmp_path, tmp_path / name, "where it is a class, rename it", "else move it away")


def test_test_images_without_labels_are_not_used(tmp_path):
    paint_classes(tmp_path / "train", 10)
    paint_classes(tmp_path / "val", 2)
    paint(tmp_path / "test" / "one.png")
    assert f"{tmp_path / 'test'} is not used: its images are in no class folders" in load("folder", tmp_path).notes


def test_a_flat_val_is_never_the_test_set(tmp_path):
    paint_classes(tmp_path / "train")
    paint(tmp_path / "val" / "one.png")
    refused(tmp_path, tmp_path / "test", tmp_path / "train", "a fifth")


def test_a_class_that_may_be_a_test_set_is_asked_about(tmp_path):
    paint(tmp_path / "control" / "one.png")
    paint(tmp_path / "test" / "one.png")
    refused(tmp_path, tmp_path / "test", "rename")


@pytest.mark.parametrize(
    "names", [("training", "testing"), ("train_set", "test_set"), ("Train2", "Val.2"), ("a", "test 1")]
)
def test_folders_of_other_names(tmp_path, names):
    for name in names:
        paint_classes(tmp_path / name)
    refused(tmp_path, *names, "rename", "train", "test", "val")


def test_a_class_may_have_a_name_in_which_such_a_word_is(tmp_path):
    for name in ("freight-train", "protest", "valley"):
        paint(tmp_path / name / "more" / "a.png")
        paint(tmp_path / name / "more" / "b.png")
    assert load("folder", tmp_path).classes == ("freight-train", "protest", "valley")


def test_two_folders_for_one_thing(tmp_path):
    for name in ("train", "val", "validation"):
        paint_classes(tmp_path / name)
    refused(tmp_path, "val and validation", "keep one")


def place_of(dataset):
    """Return where each image of a data set is, by its name."""
    divided = partition(dataset, config.Data())
    parts = {"train": divided.train, "validation": divided.validation, "test": divided.test}
    return {name: part for part, split in parts.items() for name in split.names}


@pytest.mark.parametrize(("count", "shares"), [(60, (43, 5, 12)), (12, (9, 1, 2)), (3, (1, 1, 1)), (2, (1, 0, 1))])
def test_every_class_has_its_share_of_each_part(tmp_path, count, shares):
    paint_classes(tmp_path, count)
    divided = partition(load("folder", tmp_path), config.Data())
    for split, share in zip((divided.train, divided.validation, divided.test), shares, strict=True):
        counts = torch.bincount(split.labels, minlength=2).tolist() if split else [0, 0]
        assert counts == [share, share]


def test_copies_in_the_test_set_are_counted(tmp_path):
    for number in range(10):
        paint(tmp_path / "red" / f"{number}.png", (255, 0, number))
        paint(tmp_path / "blue" / f"{number}.png", (0, number, 255))
    dataset = load("folder", tmp_path)
    assert dataset.notes == ()
    for number in range(7):
        shutil.copy(tmp_path / "red" / f"{number}.png", tmp_path / "red" / f"{number} (copy).png")
    dataset = load("folder", tmp_path)
    copies = sum(any(torch.equal(image, other) for other in dataset.train.images) for image in dataset.test.images)
    assert copies > 1
    assert dataset.notes == (
        f"{copies} of 5 test images are, to the pixel, training images as well: remove the copies",
    )
    assert dataset.notes[0] in describe(dataset, tmp_path)
    paint(tmp_path / "val" / "red" / "new.png", (255, 1, 1))
    shutil.copy(tmp_path / dataset.train.names[0], tmp_path / "val" / "red" / "a.png")
    note = "1 of 2 test images is, to the pixel, a training image as well: remove the copies"
    assert note in load("folder", tmp_path).notes


def test_copies_in_what_is_drawn_from_the_training_images_are_counted(tmp_path):
    for number in range(20):
        for part in ("train", "test"):
            paint(tmp_path / part / "red" / f"{number}.png", (255, part == "test", number))
            paint(tmp_path / part / "blue" / f"{number}.png", (part == "test", number, 255))
        shutil.copy(tmp_path / "train" / "red" / f"{number}.png", tmp_path / "train" / "red" / f"{number} (copy).png")
    divided = partition(load("folder", tmp_path), config.Data(validation=10, calibration=10))
    for part in ("validation", "calibration"):
        held_out = getattr(divided, part).images
        copies = sum(any(torch.equal(image, other) for other in divided.train.images) for image in held_out)
        assert copies > 1
        are = f"{copies} of 10 {part} images are, to the pixel, training images as well: remove the copies"
        assert are in divided.notes
    assert len(divided.notes) == len(load("folder", tmp_path).notes) + 2


def test_an_image_that_is_added_moves_one_of_its_class_at_most(tmp_path):
    paint_classes(tmp_path, 20)
    before = place_of(load("folder", tmp_path))
    for number in range(10):
        paint(tmp_path / "red" / f"new-{number}.png", (200, 0, number))
        after = place_of(load("folder", tmp_path))
        test = {name for name in before if (before[name] == "test") != (after[name] == "test")}
        assert len(test) <= 1
        assert all(after[name] == part for name, part in before.items() if name.startswith("blue"))
        before = after
    assert len(before) == 50


def test_a_number_for_validation_moves_images_at_its_threshold_alone(tmp_path):
    paint_classes(tmp_path / "train", 60)
    paint_classes(tmp_path / "test", 1)

    def held_out():
        return set(partition(load("folder", tmp_path), config.Data(validation=24)).validation.names)

    before = held_out()
    for number in range(5):
        paint(tmp_path / "train" / "red" / f"new-{number}.png")
    after = held_out()
    assert len(before) == len(after) == 24
    moved = {name for name in before ^ after if "new" not in name}
    assert len(moved) <= 3  # the share of each class changes by one at most, and few of the new ones come before

    def share(names, label):
        return [name for name in names if name.startswith(label)]

    blue = share(before, "blue"), share(after, "blue")
    assert set(blue[1]) <= set(blue[0])  # of a class without new images some go back to training at most


def test_each_class_is_on_both_sides(tmp_path):
    for number in range(20):
        paint(tmp_path / f"class {number}" / "a.png")
        paint(tmp_path / f"class {number}" / "b.png")
    paint(tmp_path / "single" / "a.png")
    dataset = load("folder", tmp_path)
    for split in (dataset.train, dataset.test):
        assert set(range(20)) <= set(split.labels.tolist())
    assert not set(dataset.train.names) & set(dataset.test.names)
    assert dataset.normalization.mean == channel_statistics(dataset.train.images)[0]


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "jfif", "jpe", "webp", "bmp", "gif", "ppm", "tif", "ico"])
@pytest.mark.parametrize("has_suffix", [True, False])
def test_formats(tmp_path, suffix, has_suffix):
    paint_classes(tmp_path)
    path = paint(tmp_path / "red" / f"other.{suffix}", RED, size=(40, 40))
    if not has_suffix:
        path.rename(path.with_suffix(""))
    images = load("folder", tmp_path)
    assert len(images.train) + len(images.test) == 11
    reds = torch.cat([split.images[split.labels == 1] for split in (images.train, images.test)])
    assert (reds.int() - torch.tensor(RED).view(3, 1, 1)).abs().max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_other_modes_become_rgb(tmp_path, mode):
    paint_classes(tmp_path / "train", 1)
    path = paint(tmp_path / "test" / "red" / f"x.{'tif' if mode == 'CMYK' else 'png'}")
    Image.new(mode, (20, 20)).save(path)
    assert load("folder", tmp_path).test.images.shape == (1, 3, 32, 32)


def only_image(folder, image, name="x.png", **options):
    """Return an image as it is read, 8 x 8 pixels."""
    paint_classes(folder / "train", 1)
    (folder / "test" / "red").mkdir(parents=True)
    image.save(folder / "test" / "red" / name, **options)
    return load("folder", folder, image_size=8).test.images[0]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_become_8(tmp_path, suffix):
    image = only_image(tmp_path, Image.fromarray(np.full((8, 8), 40_000, np.uint16)), f"grey.{suffix}")
    assert image.unique().tolist() == [40_000 // 256]


def test_inks_become_light(tmp_path):
    image = only_image(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 51)), "x.tif")
    assert image[:, 0, 0].tolist() == [204, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_white(tmp_path, mode):
    alpha = np.zeros((8, 8), np.uint8)
    alpha[2:6, 2:6] = 255
    options = {}
    if mode in ("RGBA", "LA"):
        hidden = np.random.default_rng(0).integers(0, 256, (8, 8, len(mode) - 1), dtype=np.uint8)
        hidden[2:6, 2:6] = 0
        image = Image.fromarray(np.concatenate([hidden, alpha[..., None]], axis=2))
    elif mode == "P":
        image = Image.fromarray(alpha // 255).convert("P")
        image.putpalette([0] * 768)
        options = {"transparency": bytes([0, 255])}
    else:
        image = Image.fromarray(np.stack([255 - alpha, 0 * alpha, 0 * alpha], axis=2))
        options = {"transparency": (255, 0, 0)}
    read = only_image(tmp_path, image, **options)
    assert torch.equal(read, 255 - torch.from_numpy(alpha).expand(3, 8, 8))


def test_half_transparent_is_half_white(tmp_path):
    image = only_image(tmp_path, Image.new("RGBA", (8, 8), (0, 0, 0, 127)))
    assert image.unique().tolist() == [128]


def test_a_large_photograph_is_near_its_full_decoding(tmp_path):
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    image = coarse.resize((1200, 800), Image.Resampling.BICUBIC)
    expected = square(image, 8)
    read = only_image(tmp_path, image, "x.jpg", quality=95)
    assert np.abs(read.numpy().transpose(1, 2, 0).astype(int) - expected).max() <= 6


def test_the_shorter_side_is_fitted_and_the_middle_kept(tmp_path):
    paint_classes(tmp_path / "train", 1)
    pixels = np.zeros((20, 60, 3), np.uint8)  # black, with a middle third of red
    pixels[:, 20:40, 0] = 255
    (tmp_path / "test" / "red").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "test" / "red" / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "test" / "red" / "tall.png")
    wide, tall = load("folder", tmp_path, image_size=8).test.images.flip(0)
    for image in (wide, tall):
        assert image.shape == (3, 8, 8)
        assert image[1:].max() == 0
        assert image[0].min() >= 200  # the edges take a little of their neighbours


def test_photographs_are_turned_upright(tmp_path):
    paint_classes(tmp_path / "train", 1)
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = RED
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    (tmp_path / "test" / "red").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "test" / "red" / "photo.png", exif=exif)
    (image,) = load("folder", tmp_path).test.images
    assert image[0, :16].max() == 0
    assert image[0, 16:].min() == 255


def test_other_files_are_named(tmp_path):
    paint_classes(tmp_path)
    (tmp_path / "readme.txt").touch()
    (tmp_path / "red" / "notes.txt").touch()
    (tmp_path / "red" / "more").mkdir()
    (tmp_path / "red" / "more" / "list.csv").touch()
    (tmp_path / "red" / "._0.png").touch()
    (tmp_path / "red" / "more" / "Thumbs.db").touch()
    paint(tmp_path / ".cache" / "x.png")
    paint(tmp_path / "__MACOSX" / "x.png")
    dataset = load("folder", tmp_path)
    assert dataset.classes == ("blue", "red")
    assert len(dataset.train) + len(dataset.test) == 10
    assert notes(dataset) == (
        f"not used in {tmp_path}, being no image in a class folder: 3 (readme.txt, red/more/list.csv, red/notes.txt)",
        f"hidden and system files in {tmp_path} are not used: 4 (.cache, __MACOSX, red/._0.png, red/more/Thumbs.db)",
    )
    assert describe(dataset, tmp_path).endswith("\n".join(dataset.notes))


def test_folders_in_a_class_folder_count_for_the_class(tmp_path):
    paint_classes(tmp_path / "flat", 30)
    for path in sorted((tmp_path / "flat").rglob("*.png")):
        paint(tmp_path / "nested" / path.parent.name / f"day {int(path.stem) % 3}" / "am" / path.name, BLUE)
    dataset = load("folder", tmp_path / "nested")
    assert dataset.classes == ("blue", "red")
    names = [*dataset.train.names, *dataset.test.names]
    assert len(names) == len(set(names)) == 60
    assert "red/day 1/am/4.png" in names
    assert notes(dataset) == ("in folders of a class folder, and counted for its class: 60 images",)
    # One name in two folders of a class is two images; those that are added move none.
    paint(tmp_path / "nested" / "red" / "day 2" / "am" / "4.png")
    again = load("folder", tmp_path / "nested")
    assert set(dataset.test.names) <= set(again.test.names)
    assert set(dataset.train.names) <= set(again.train.names)


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    paint_classes(tmp_path)
    (tmp_path / "red" / "again").symlink_to(tmp_path / "red")
    dataset = load("folder", tmp_path)
    assert len(dataset.train) + len(dataset.test) == 10
    assert notes(dataset) == (f"not used in {tmp_path}, being no image in a class folder: 1 (red/again)",)


def test_damaged_files_are_left_out_when_asked(tmp_path):
    paint_classes(tmp_path / "train", 4)
    paint_classes(tmp_path / "test", 4)
    clean = load("folder", tmp_path)
    bad = [tmp_path / "train" / "blue" / "00.png", tmp_path / "test" / "red" / "zz.png"]
    for path in bad:
        path.write_text("no image")
    refused(tmp_path, "2 files", *bad, "--skip-damaged")
    dataset = load("folder", tmp_path, skip_damaged=True)
    reason = "(no image, or of an unknown format)"
    assert notes(dataset) == (f"2 files that cannot be read were left out: {bad[0]} {reason}, {bad[1]} {reason}",)
    for part in ("train", "test"):
        found, expected = getattr(dataset, part), getattr(clean, part)
        assert found.names == expected.names
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels)
    assert fingerprint(partition(dataset, config.Data())) == fingerprint(partition(clean, config.Data()))


def test_a_class_of_damaged_files_alone(tmp_path):
    paint_classes(tmp_path)
    (tmp_path / "green").mkdir()
    (tmp_path / "green" / "0.png").write_text("no image")
    refused(tmp_path, tmp_path, "class green", skip_damaged=True)


def test_grey_files_have_one_channel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    grey, colour = load("folder", tmp_path, image_size=8), load("folder", tmp_path, image_size=8, channels=3)
    assert grey.train.images.shape[1:] == (1, 8, 8)
    assert len(grey.normalization.mean) == 1
    assert torch.equal(grey.train.images.expand(-1, 3, -1, -1), colour.train.images)
    for name, image in zip(grey.train.names, grey.train.images, strict=True):
        assert np.array_equal(image[0], pixels[int(name.split("/")[1].removesuffix(".png"))])
    Image.new("RGB", (8, 8), RED).save(tmp_path / "class 0" / "red.png")
    assert load("folder", tmp_path, image_size=8).train.images.shape[1] == 3
    assert load("folder", tmp_path, image_size=8, channels=1).train.images.shape[1] == 1


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_images_become_squares_by_choice(tmp_path, resize):
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8))
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(2):
            wide.save(tmp_path / name / f"{number}.png")
    dataset = load("folder", tmp_path, image_size=12, resize=resize)
    expected = convert(wide, size=12, resize=resize).transpose(2, 0, 1)
    assert all(np.array_equal(image, expected) for image in dataset.train.images)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"caf\xe9", (r"'caf\udce9'", "not UTF-8")),
        (b"a\nb", (r"'a\nb'", "control characters")),
        (b"\x1b[31m", (r"'\x1b[31m'", "control characters")),
        (b" ", ("' '", "empty")),
    ],
)
def test_names_that_nobody_can_show(tmp_path, name, words):
    paint_classes(tmp_path)
    os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    refused(tmp_path, tmp_path, *words, "rename it")


def test_a_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "nowhere", "data_dir")


def test_one_class(tmp_path):
    paint(tmp_path / "only" / "x.png")
    before = sorted(tmp_path.rglob("*"))
    refused(tmp_path, tmp_path, "1 class", "at least two")
    assert sorted(tmp_path.rglob("*")) == before


def test_no_images(tmp_path):
    paint_classes(tmp_path)
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", "no images")
    paint_classes(tmp_path / "more" / "train")
    (tmp_path / "more" / "test" / "red").mkdir(parents=True)
    refused(tmp_path / "more", tmp_path / "more" / "test", "no images")


def test_train_without_test(tmp_path):
    paint_classes(tmp_path / "train")
    refused(tmp_path, tmp_path / "test")


def test_a_class_that_is_only_in_the_test_set(tmp_path):
    paint_classes(tmp_path / "train")
    paint(tmp_path / "test" / "green" / "x.png")
    refused(tmp_path, tmp_path / "test" / "green")


def test_all_unreadable_images_are_named(tmp_path):
    paint_classes(tmp_path)
    for number in range(7):
        (tmp_path / "red" / f"bad-{number}.png").write_text("not an image")
    refused(tmp_path, "7 files", *(tmp_path / "red" / f"bad-{number}.png" for number in range(7)))


def test_the_memory_of_large_data_is_said_before(tmp_path, monkeypatch):
    paint_classes(tmp_path)
    monkeypatch.setattr(folders, "LARGE", 10 * 3 * 32 * 32 - 1)
    said = []
    display = Display()
    display.say = said.append
    folders.load_folder(tmp_path, display=display)
    assert said == ["reading 10 images of 32 x 32 pixels: 0.0 GB of memory"]


@pytest.mark.parametrize("fault", ["empty", "text", "truncated", "pipe", "socket", "link", "bomb", "float"])
def test_an_unreadable_image_is_named(tmp_path, monkeypatch, fault):
    paint_classes(tmp_path)
    path = tmp_path / "red" / "bad.png"
    if fault == "empty":
        path.touch()
    elif fault == "text":
        path.write_text("not an image")
    elif fault == "truncated":
        content = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(content).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif fault == "pipe":
        os.mkfifo(path)
    elif fault == "socket":
        monkeypatch.chdir(path.parent)  # such names may not be long
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    elif fault == "link":
        path.symlink_to("nowhere")
    elif fault == "float":
        Image.new("F", (8, 8)).save(path, "TIFF")
    else:
        paint(path, size=(100, 100))
        monkeypatch.setattr(pictures, "MAX_PIXELS", 2000)
    refused(tmp_path, path, "repair or remove it")


def test_image_size_is_checked(tmp_path):
    refused(tmp_path, "image_size", image_size=0)
