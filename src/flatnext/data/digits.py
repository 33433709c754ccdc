"""Handwritten digits that come with scikit-learn: small, real, without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from flatnext.data.dataset import Split
from flatnext.data.splits import stratified
from flatnext.errors import InputError

TEST_IMAGES = 360
TEST_SEED = 0


def load_digits() -> tuple[tuple[str, ...], Split, Split]:
    """Return classes, 1437 training and 360 test images (8 x 8, grey in all three channels).

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI. The division is this
    project's: stratified, with a fixed seed.

    Raises:
        InputError: scikit-learn is not installed, or without its data.
    """
    table = _table()
    grey = torch.from_numpy(np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)).reshape(-1, 1, 8, 8)
    whole = Split(grey.repeat(1, 3, 1, 1), torch.from_numpy(table[:, 64].astype(np.int64)))
    test, train = stratified(whole.labels, TEST_IMAGES, torch.Generator().manual_seed(TEST_SEED))
    return tuple(map(str, range(10))), whole.select(train), whole.select(test)


def _table() -> np.ndarray:
    """Return scikit-learn's table: a row of 64 pixels from 0 to 16 and the digit for each image.

    Its own `load_digits` reads the same file; but to import `sklearn.datasets` takes a second.
    """
    package = find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    raise InputError("the digits come with scikit-learn, which is not installed whole: pip install scikit-learn")
