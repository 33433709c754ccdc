"""Small data sets in CIFAR's published layouts, written for tests."""

import hashlib
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from flatnext.data import cifar

LAYOUT_IDS = ("cifar10-python", "cifar10-binary", "cifar100-python", "cifar100-binary")


def names(layout):
    return [f"class_{label}" for label in range(layout.classes)]


def make_batches(layout, images=12, seed=0):
    """Return pixels (N x 3072) and labels for each batch of a layout."""
    random = np.random.default_rng(seed)
    return {
        name: (
            random.integers(0, 256, (images, 3072), dtype=np.uint8),
            random.integers(0, layout.classes, images).tolist(),
        )
        for name in (*layout.train, layout.test)
    }


def write_python_batch(path, layout, pixels, labels, protocol=4):
    path.write_bytes(pickle.dumps({"data": pixels, layout.labels_key: labels, "batch_label": "one"}, protocol))


def write_set(folder, layout, batches=None):
    """Write a whole set into `folder`; return its batches."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = batches or make_batches(layout)
    for name, (pixels, labels) in batches.items():
        if layout.labels_key:
            write_python_batch(folder / name, layout, pixels, labels)
        else:
            column = np.array(labels, np.uint8)[:, None]
            before = np.full((len(labels), layout.label_bytes - 1), 7, np.uint8)  # CIFAR-100's coarse label
            (folder / name).write_bytes(np.hstack([before, column, pixels]).tobytes())
    if layout.labels_key:
        (folder / layout.meta).write_bytes(pickle.dumps({layout.names_key: names(layout)}))
    else:
        (folder / layout.meta).write_text("\n".join(names(layout)) + "\n\n")
    return batches


def layout_of(identifier):
    name, kind = identifier.split("-")
    return name, cifar.LAYOUTS[name][("python", "binary").index(kind)]


def publish_archive(monkeypatch, folder: Path, identifier="cifar10-python"):
    """Write a small archive into `folder` and make its MD5 the published one; return path, layout and batches."""
    name, layout = layout_of(identifier)
    folder.mkdir(parents=True, exist_ok=True)
    inside = folder / "unpacked" / layout.archive.folder
    batches = write_set(inside, layout)
    path = folder / layout.archive.name
    with tarfile.open(path, "w:gz") as tar:
        tar.add(inside, layout.archive.folder)
    for file in inside.iterdir():
        file.unlink()
    inside.rmdir()
    inside.parent.rmdir()
    patched = replace(layout, archive=replace(layout.archive, md5=hashlib.md5(path.read_bytes()).hexdigest()))
    layouts = tuple(patched if each is layout else each for each in cifar.LAYOUTS[name])
    monkeypatch.setitem(cifar.LAYOUTS, name, layouts)
    return path, patched, batches
