"""Handwritten digits that come with scikit-learn: small, real, without a download."""

from __future__ import annotations

import numpy as np
import torch

from flatnext.data.dataset import Split
from flatnext.data.splits import stratified

TEST_IMAGES = 360
TEST_SEED = 0


def load_digits() -> tuple[tuple[str, ...], Split, Split]:
    """Return classes, 1437 training and 360 test images (8 x 8, grey in all three channels).

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI. The division is this
    project's: stratified, with a fixed seed.
    """
    from sklearn.datasets import load_digits as load  # takes a second to import, so only where it is used

    digits = load()
    grey = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))
    whole = Split(grey[:, None].repeat(1, 3, 1, 1), torch.from_numpy(digits.target.astype(np.int64)))
    test, train = stratified(whole.labels, TEST_IMAGES, torch.Generator().manual_seed(TEST_SEED))
    return tuple(str(name) for name in digits.target_names), whole.select(train), whole.select(test)
