"""Images and labels as tensors on the device: sources, splits, augmentation, and the loader."""

from flatnext.data.dataset import Dataset, Partition, Split, partition
from flatnext.data.describe import describe
from flatnext.data.loader import Loader, batches
from flatnext.data.picture import sample_grid
from flatnext.data.sources import load

__all__ = ["Dataset", "Loader", "Partition", "Split", "batches", "describe", "load", "partition", "sample_grid"]
