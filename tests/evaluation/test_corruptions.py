"""Corruptions against plain loops, SciPy, Pillow and colorsys, closed forms, and what noise must be on average."""

from __future__ import annotations

import colorsys
import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from flatnext.errors import InputError
from flatnext.evaluation.corruptions import NAMES, SEVERITIES, corrupt, table
from flatnext.evaluation.corruptions.blur import defocus_blur, disc, glass_blur, motion_blur, smeared, zoom_blur
from flatnext.evaluation.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate
from flatnext.evaluation.corruptions.draws import draws, integers, uniform
from flatnext.evaluation.corruptions.frost import SIDE, textures
from flatnext.evaluation.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from flatnext.evaluation.corruptions.plasma import plasma
from flatnext.evaluation.corruptions.weather import brightness, fog, frost, snow


def pictures(count=6, height=32, width=32, seed=0):
    """Return soft shapes with some finer texture: uint8, N x 3 x H x W."""
    noise = np.random.default_rng(seed).normal(size=(2, count, 3, height, width))
    soft = (
        sum(ndimage.gaussian_filter(each, (0, 0, s, s)) * 130 * s for each, s in zip(noise, (1, 3), strict=True)) + 128
    )
    return torch.from_numpy(soft.clip(0, 255).astype(np.uint8))


def levels(images):
    """Return pixels as the corruptions take them."""
    return images.permute(0, 2, 3, 1).contiguous().numpy().astype(np.float32)


def generators(count=6):
    return draws(0, "test", 1, 0, count)


def grey(level, count=40, side=32):
    return np.full((count, side, side, 3), level, np.float32)


# One channel


@pytest.mark.parametrize("name", [name for name in NAMES if "noise" not in name])
@pytest.mark.parametrize("severity", [1, 5])
def test_grey_pictures_are_corrupted_as_colour_ones_without_colour(name, severity):
    one = pictures(3)[:, :1]
    found, three = corrupt(one, name, severity), corrupt(one.expand(-1, 3, -1, -1), name, severity)
    expected = (three.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert found.shape == one.shape
    near = 6 if name == "jpeg_compression" else 1.5  # its chroma is rounded as well
    assert (found - expected).abs().max() <= near


@pytest.mark.parametrize("name", [name for name in NAMES if "noise" in name])
def test_noise_on_grey_pictures_is_as_strong(name):
    one = torch.full((20, 1, 32, 32), 128, dtype=torch.uint8)
    found, three = corrupt(one, name, 3), corrupt(one.expand(-1, 3, -1, -1), name, 3)
    assert found.shape == one.shape
    assert found.float().std() == pytest.approx(three.float().std().item(), rel=0.05)


# All of them


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_its_batch(name, monkeypatch):
    images = pictures(9)
    before = images.clone()
    whole = corrupt(images, name, 3, seed=5)
    monkeypatch.setattr(table, "AT_ONCE", 2)
    assert torch.equal(whole[2:7], corrupt(images[2:7], name, 3, seed=5, first=2))
    assert torch.equal(images, before)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    assert not torch.equal(whole, images)


CHANCE = ("gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog")


@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_images_differ_and_the_global_generators_stay(name):
    images = pictures(1).repeat(2, 1, 1, 1)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    one, other = corrupt(images, name, 5, seed=0), corrupt(images, name, 5, seed=1)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert torch.equal(torch.get_rng_state(), torch_state)
    by_chance = name in (*CHANCE, "elastic_transform")
    assert torch.equal(one, other) is not by_chance
    assert torch.equal(one[0], one[1]) is not by_chance


# The published parameters of these are such that the distance falls somewhere: the affine map of elastic_transform
# shrinks, frost darkens the picture, glass_blur blurs its own noise, snow's flakes get larger and fewer.
NOT_MONOTONE = ("elastic_transform", "frost", "glass_blur", "snow")


@pytest.mark.parametrize("name", NAMES)
def test_severity_grows_the_distance(name):
    images = pictures(24)
    errors = [float((corrupt(images, name, each).double() - images).square().mean()) for each in SEVERITIES]
    if name not in NOT_MONOTONE:
        assert all(b > 0.95 * a for a, b in itertools.pairwise(errors)), errors
    if name != "elastic_transform":
        assert errors[4] > 1.5 * errors[0], errors
    assert errors[0] > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(8, 8), (20, 33)])
def test_other_sizes(name, size):
    images = pictures(2, *size)
    for severity in SEVERITIES:
        assert corrupt(images, name, severity).shape == images.shape


@pytest.mark.parametrize(
    ("images", "name", "severity", "seed", "message"),
    [
        (torch.zeros(2, 3, 32, 32), "fog", 1, 0, "images are torch.float32"),
        (torch.zeros(2, 2, 32, 32, dtype=torch.uint8), "fog", 1, 0, r"\(2, 2, 32, 32\): give"),
        (torch.zeros(0, 3, 32, 32, dtype=torch.uint8), "fog", 1, 0, "N >= 1"),
        (torch.zeros(2, 3, 32, 7, dtype=torch.uint8), "fog", 1, 0, "at least 8 pixels"),
        (pictures(1), "rain", 1, 0, "corruption is 'rain': choose one of gaussian_noise, "),
        (pictures(1), "fog", 0, 0, "severity is 0: choose 1 to 5"),
        (pictures(1), "fog", 1, -1, "seed is -1"),
    ],
)
def test_bad_input(images, name, severity, seed, message):
    with pytest.raises(InputError, match=message):
        corrupt(images, name, severity, seed)


def test_identity_limits():
    pixels = levels(pictures())
    for function, parameters in (
        (gaussian_noise, (0,)),
        (impulse_noise, (0,)),
        (defocus_blur, (0, 0.1)),
        (glass_blur, (0.05, 0)),
        (motion_blur, (6, 0.05)),
        (zoom_blur, (1,)),
        (snow, (0, 0.2, 1, 9, 8, 3, 1)),
        (frost, (1, 0)),
        (fog, (0, 3)),
        (brightness, (0,)),
        (contrast, (1,)),
        (elastic_transform, (0, 0, 0)),
        (pixelate, (1,)),
    ):
        np.testing.assert_allclose(function(pixels, generators(), *parameters), pixels, atol=1e-3)


# Noise


def test_gaussian_noise_has_its_mean_and_deviation():
    noise = gaussian_noise(grey(128), generators(40), 0.1) - 128
    assert noise.mean() == pytest.approx(0, abs=4 * 25.5 / np.sqrt(noise.size))
    assert noise.std() == pytest.approx(25.5, rel=0.01)


@pytest.mark.parametrize("level", [20, 128])
def test_shot_noise_is_poisson(level):
    noisy = shot_noise(grey(level), generators(40), 50)
    assert noisy.mean() == pytest.approx(level, rel=0.02)
    assert noisy.var() == pytest.approx(255 * level / 50, rel=0.02)  # of x + Poisson(50 x / 255) * 255 / 50
    counts = noisy * 50 / 255
    np.testing.assert_allclose(counts, counts.round(), atol=1e-4)


def test_impulse_noise_has_its_share_of_extremes():
    noisy = impulse_noise(grey(128), generators(40), 0.07)
    assert set(np.unique(noisy)) == {0, 128, 255}
    for extreme in (0, 255):
        assert (noisy == extreme).mean() == pytest.approx(0.035, rel=0.05)


# Blur


@pytest.mark.parametrize(("radius", "smoothing"), [(0.3, 0.4), (1, 0.2), (1.5, 0.1)])
def test_defocus_blur_is_a_convolution_with_a_disc(radius, smoothing):
    kernel = disc(radius, smoothing)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert (kernel > 1e-3).sum() == {0.3: 9, 1: 5, 1.5: 9}[radius]
    pixels = levels(pictures(2))
    expected = ndimage.correlate(pixels.astype(np.float64), kernel[None, :, :, None], mode="mirror")
    np.testing.assert_allclose(defocus_blur(pixels, generators(2), radius, smoothing), expected, atol=1e-3)


def test_glass_blur_is_the_scan_of_the_published_code():
    # One pixel after the other, from the last to the first, "swapped" with a neighbour through NumPy's views.
    pixels = levels(pictures(3))
    expected = pixels.copy()
    steps = integers(generators(3), -1, 1, (2, 32, 32))
    for picture, (down, right) in zip(expected, steps, strict=True):
        for h in range(31, 1, -1):
            for w in range(31, 1, -1):
                other = h + down[h, w], w + right[h, w]
                picture[h, w], picture[other] = picture[other], picture[h, w]
    np.testing.assert_array_equal(glass_blur(pixels, generators(3), 0.05, 1), expected)


def test_a_smear_is_a_mean_along_a_line():
    pixels = levels(pictures(3))
    angles = np.array([0.0, 31.0, -45.0], np.float32)
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 1.5**2))
    expected = np.zeros_like(pixels, dtype=np.float64)
    for picture in range(3):
        angle = np.deg2rad(float(angles[picture]))
        for y, x in np.ndindex(32, 32):
            for distance, weight in enumerate(weights / weights.sum()):
                row = min(max(y + int(np.ceil(distance * np.sin(angle) - 0.5)), 0), 31)
                column = min(max(x + int(np.ceil(distance * np.cos(angle) - 0.5)), 0), 31)
                expected[picture, y, x] += weight * pixels[picture, row, column]
    np.testing.assert_allclose(smeared(pixels, angles, 6, 1.5), expected, atol=2e-3)


@pytest.mark.parametrize("size", [(32, 32), (20, 33)])
def test_zoom_blur_is_that_of_scipy(size):
    pixels = levels(pictures(2, *size))
    expected = pixels.astype(np.float64)
    for factor in 1 + 0.01 * np.arange(26):
        cut = [int(np.ceil(side / factor)) for side in size]
        top, left = ((side - part) // 2 for side, part in zip(size, cut, strict=True))
        middle = pixels[:, top : top + cut[0], left : left + cut[1]].astype(np.float64)
        larger = ndimage.zoom(middle, (1, factor, factor, 1), order=1)
        top, left = ((made - side) // 2 for made, side in zip(larger.shape[1:3], size, strict=True))
        expected += larger[:, top : top + size[0], left : left + size[1]]
    np.testing.assert_allclose(zoom_blur(pixels, generators(2), 26), expected / 27, atol=1e-2)


# Weather


def test_snow_falls_as_much_on_the_turned_picture():
    fallen = snow(grey(0, 6), generators(), 0.3, 0.3, 1.25, 0.65, 14, 12, 1)
    np.testing.assert_array_equal(fallen, fallen[:, ::-1, ::-1])
    assert (fallen.max(axis=(1, 2, 3)) > 20).all()
    assert (fallen == fallen[..., :1]).all()  # white


def test_snow_whitens_by_luma():
    pixels = levels(pictures())
    luma = 0.299 * pixels[..., 0] + 0.587 * pixels[..., 1] + 0.114 * pixels[..., 2]
    expected = 0.8 * pixels + 0.2 * np.maximum(pixels, 1.5 * luma[..., None] + 127.5)
    np.testing.assert_allclose(snow(pixels, generators(), 0, 0.2, 1, 9, 8, 3, 0.8), expected, atol=1e-3)


def test_frost_is_a_piece_of_a_texture():
    ice = textures()
    assert ice.shape == (5, SIDE, SIDE, 3)
    assert (ice.min(), ice.max()) >= (0, 200)
    assert ice.max() <= 255
    piece = frost(grey(0, 1), generators(1), 1, 1)[0]
    tiled = np.pad(ice, ((0, 0), (0, 31), (0, 31), (0, 0)), mode="wrap")
    corners = np.argwhere((tiled[:, :SIDE, :SIDE] == piece[0, 0]).all(axis=-1))
    assert any((tiled[k, y : y + 32, x : x + 32] == piece).all() for k, y, x in corners)


def test_fog_on_white_is_the_clouds():
    clouds = (fog(grey(255, 8), generators(8), 1, 2) / 255) * 2 - 1
    assert clouds.min() == pytest.approx(0, abs=1e-6)
    assert clouds.max() == pytest.approx(1, abs=1e-6)
    assert fog(levels(pictures()), generators(), 1.5, 1.75).max() <= 255


def test_plasma_is_diamond_square():
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16)).astype(np.float32)
    for one, found in zip(noise, plasma(noise, 2), strict=True):
        heights = {(0, 0): 0.0}
        for amplitude, half in ((1, 8), (1 / 4, 4), (1 / 16, 2), (1 / 64, 1)):
            slanted = [(-half, -half), (-half, half), (half, -half), (half, half)]
            straight = [(-half, 0), (half, 0), (0, -half), (0, half)]
            corners = [(y, x) for y in range(0, 16, 2 * half) for x in range(0, 16, 2 * half)]
            points = [(y + half, x + half, slanted) for y, x in corners]
            points += [(y, x + half, straight) for y, x in corners] + [(y + half, x, straight) for y, x in corners]
            for y, x, neighbours in points:
                mean = sum(heights[(y + down) % 16, (x + right) % 16] for down, right in neighbours) / 4
                heights[y, x] = mean + amplitude * float(one[y, x])
        expected = np.array([[heights[y, x] for x in range(16)] for y in range(16)])
        expected = (expected - expected.min()) / np.ptp(expected)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def band_power(maps):
    """Return the mean share of the power in the octaves 1, 2-3, 4-7 and 8-15 of the spatial frequency."""
    power = np.abs(np.fft.fft2(maps - maps.mean(axis=(1, 2), keepdims=True))) ** 2
    frequency = np.abs(np.fft.fftfreq(32, 1 / 32))
    octave = np.floor(np.log2(np.maximum(np.maximum(frequency[:, None], frequency), 0.5))).astype(int)
    sums = np.array([power[:, octave == each].sum(axis=1) for each in range(4)])
    return (sums / sums.sum(axis=0)).mean(axis=1)


def test_spectrum_of_the_clouds_falls_and_faster_with_more_decay():
    noise = uniform(generators(60), (32, 32), -1, 1)
    rough, smooth = band_power(plasma(noise, 1.75)), band_power(plasma(noise, 3))
    assert (np.diff(rough) < 0).all(), rough
    assert (np.diff(smooth) < 0).all(), smooth
    assert smooth[0] > rough[0]
    assert smooth[3] < rough[3]


def test_brightness_is_that_of_hsv():
    pixels = levels(pictures(2, 8, 8))
    pixels[0, 0, 0], pixels[0, 0, 1] = 0, (255, 10, 0)
    found = brightness(pixels, generators(2), 0.2)
    for place in np.ndindex(2, 8, 8):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[place] / 255))
        expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))) * 255
        np.testing.assert_allclose(found[place], expected, atol=1e-2)


# Digital


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    pixels = levels(pictures())
    found = contrast(pixels, generators(), 0.3)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), pixels.mean(axis=(1, 2)), atol=1e-2)
    np.testing.assert_allclose(found.std(axis=(1, 2)), 0.3 * pixels.std(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize(("strength", "sigma", "shift"), [(0, 0, 0.08), (0.1, 0.03, 0.03)])
def test_elastic_transform_is_that_of_scipy(strength, sigma, shift):
    pixels = levels(pictures(2)).astype(np.float64)
    again = generators(2)
    shifts, noise = uniform(again, (3, 2), -shift * 32, shift * 32), uniform(again, (2, 32, 32), -1, 1)
    before = np.array([[26.0, 26], [26, 6], [6, 6]])
    expected = np.empty_like(pixels)
    rows, columns = np.indices((32, 32))
    for picture in range(2):
        # Three points (x, y) of the picture go to new places; every pixel is read where the inverse map has it.
        matrix, *_ = np.linalg.lstsq(np.c_[before, np.ones(3)], before + shifts[picture], rcond=None)
        inverse = np.linalg.inv(np.c_[matrix, [0, 0, 1]])
        xs, ys, _ = np.moveaxis(np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ inverse, -1, 0)
        down, right = (ndimage.gaussian_filter(each, 32 * sigma, truncate=3) * 32 * strength for each in noise[picture])
        for channel in range(3):
            mapped = ndimage.map_coordinates(pixels[picture, ..., channel], [ys, xs], order=1, mode="mirror")
            places = [rows + down, columns + right]
            expected[picture, ..., channel] = ndimage.map_coordinates(mapped, places, order=1, mode="reflect")
    found = elastic_transform(pixels.astype(np.float32), generators(2), strength, sigma, shift)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_pixelate_takes_the_means_of_blocks():
    pixels = levels(pictures())
    means = pixels.reshape(6, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    found = pixelate(pixels, generators(), 0.5)
    np.testing.assert_allclose(found, means.repeat(2, axis=1).repeat(2, axis=2), atol=1)
    for severity, blocks in zip(SEVERITIES, (30, 28, 27, 24, 20), strict=True):
        coarse = corrupt(pictures(1, seed=3), "pixelate", severity)[0]
        assert len(torch.unique(coarse, dim=1)[0]) == len(torch.unique(coarse, dim=2)[0, 0]) == blocks


def test_jpeg_is_that_of_pillow():
    images = pictures()
    for severity, quality in zip(SEVERITIES, (80, 65, 58, 50, 40), strict=True):
        found = corrupt(images, "jpeg_compression", severity)
        for image, compressed in zip(levels(images).astype(np.uint8), found, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
            assert (np.asarray(Image.open(buffer)) == compressed.permute(1, 2, 0).numpy()).all()
    assert (jpeg_compression(grey(128, 1), generators(1), 40) == 128).all()  # the zero of the transform
