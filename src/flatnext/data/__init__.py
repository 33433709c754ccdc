"""Images and labels as tensors on the device: sources, splits, augmentation, and the loader."""

from flatnext.data.dataset import Dataset, Partition, Split
from flatnext.data.describe import describe
from flatnext.data.fingerprint import change_of_test, fingerprint, fingerprint_images
from flatnext.data.loader import Loader
from flatnext.data.normalization import CIFAR10, Normalization
from flatnext.data.samples import sample_grid
from flatnext.data.sources import check_place, load, load_by
from flatnext.data.splits import partition, stratified
from flatnext.data.test_set import read_test_set, test_set_name

__all__ = [
    "CIFAR10",
    "Dataset",
    "Loader",
    "Normalization",
    "Partition",
    "Split",
    "change_of_test",
    "check_place",
    "describe",
    "fingerprint",
    "fingerprint_images",
    "load",
    "load_by",
    "partition",
    "read_test_set",
    "sample_grid",
    "stratified",
    "test_set_name",
]
