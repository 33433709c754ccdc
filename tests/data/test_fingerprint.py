"""The fingerprint of data: of pixels, labels and order, and of nothing else."""

import torch
from loaders import make_dataset

from flatnext import config
from flatnext.data import Split, fingerprint, partition


def parts(split):
    """Return the fingerprint of a split as the training images of a data set."""
    dataset = make_dataset()
    whole = partition(dataset, config.Data(validation=0))
    return fingerprint(type(whole)(**{**vars(whole), "train": split})).train


def test_pixels_labels_and_order_count():
    split = make_dataset().train
    same = parts(split)
    assert same.counts == (10, 10, 10)
    changed = split.images.clone()
    changed[7, 1, 2, 3] ^= 1
    others = [
        Split(changed, split.labels),
        Split(split.images, split.labels.flip(0)),
        split.select(torch.arange(30).roll(1)),
        split.select(torch.arange(29)),
    ]
    assert len({same, *map(parts, others)}) == 5


def test_memory_layout_does_not_count():
    split = make_dataset(count=2010).train  # more than are hashed at a time
    layout = Split(split.images.contiguous(memory_format=torch.channels_last), split.labels)
    assert parts(layout) == parts(split)
