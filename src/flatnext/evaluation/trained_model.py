"""A trained model with the data set that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flatnext import data, models
from flatnext.config import Config, Data
from flatnext.device import resolve_device
from flatnext.errors import InputError, choose
from flatnext.evaluation.predictor import Predictor, load_predictor
from flatnext.pictures import Resize
from flatnext.runs.comparison import warn_if_edited
from flatnext.runs.fingerprint import DataFingerprint, ImagesFingerprint, change
from flatnext.runs.folder import RunFolder, require_other_images

SPLITS = ("test", "validation", "train")


def check_split(name: str) -> None:
    """Raise `InputError` for a name that is no split's."""
    if name not in SPLITS:
        raise InputError(f"split is {name!r}: {choose(name, SPLITS)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """A predictor, the file of its weights, its data set, and how it was trained.

    `config_known`: the file holds the config, and so says which images were trained on; the baseline's checkpoints do
    not, and `config` is then the default one. `fingerprint` is that of the data it was trained on, None where nobody
    knows it or other data were asked for. `knows_held_out`: it started from weights that may have been trained on its
    validation images.
    """

    weights: Path
    predictor: Predictor
    config: Config
    config_known: bool
    dataset: data.Dataset
    fingerprint: DataFingerprint | None = None
    knows_held_out: bool = False

    @cached_property
    def partition(self) -> data.Partition:
        """The data set as it was divided for training."""
        return data.partition(self.dataset, self.config.data)

    def split(self, name: str) -> data.Split:
        """Return the images of `train`, `validation` or `test`.

        `InputError`: there are none, nobody knows which they are, or they are others than in training.
        """
        check_split(name)
        self._require_same_data(name)
        if name == "test":
            return self.dataset.test
        if not self.config_known:
            raise InputError(f"{self.weights} does not say which images it was trained on: evaluate it on --split test")
        split = self.partition.train if name == "train" else self.partition.validation
        if split is None:
            raise InputError(f"{self.weights} was trained without a validation split: evaluate on --split test")
        return split

    @property
    def has_validation_split(self) -> bool:
        """Whether images were held out from training, that of the starting weights too, that are no test images."""
        return self.config_known and self.partition.validation is not None and not self.knows_held_out

    def _require_same_data(self, split: str) -> None:
        words = change(self.fingerprint, self._fingerprint_now, split) if self.fingerprint else None
        if words:
            raise InputError(
                f"the data are not those of {self.weights} ({words}): restore them, or give new images as --test-set"
            )

    @cached_property
    def _fingerprint_now(self) -> DataFingerprint:
        return data.fingerprint(self.partition)

    def other_test_set(self, path: Path | str) -> data.Split:
        """Return other images of the same classes; see `other_images`."""
        channels, size = self.dataset.test.images.shape[1:3]
        settings, classes = self.config.data, self.predictor.classes
        how: dict[str, Any] = {"resize": settings.resize, "skip_damaged": settings.skip_damaged}
        return other_images(path, self.weights, classes=classes, image_size=size, channels=channels, **how)


def other_images(
    test_set: Path | str,
    *trained: Path | str,
    classes: Sequence[str],
    image_size: int,
    channels: int,
    resize: Resize,
    skip_damaged: bool,
) -> data.Split:
    """Return images that none of the models at the paths `trained` has seen, as `flatnext.data.read_test_set` does.

    `InputError`: they cannot be read, or are those that such a model was trained on, by where they lie or by what they
    are. So are those that have chosen its best checkpoint. A part of them, or some among others, is not noticed.
    """
    for path in trained:
        require_other_images(path, test_set)
    how: dict[str, Any] = {"channels": channels, "resize": resize, "skip_damaged": skip_damaged}
    images = data.read_test_set(test_set, classes, image_size, **how)
    fingerprint = data.fingerprint_images(images, len(classes))
    for path in trained:
        _require_unseen(path, test_set, fingerprint)
    return images


def _require_unseen(path: Path | str, test_set: Path | str, images: ImagesFingerprint) -> None:
    """Raise `InputError` if images have trained a model, or have chosen it as the best checkpoint."""
    if Path(path).suffix.lower() == ".onnx":  # it does not say what it was trained on
        return
    weights = models.find_weights(path)
    metadata = models.read_weights(weights)[1]
    origin = models.read_origin(metadata, weights)
    if origin is None or origin.data is None:
        return
    if images == origin.data.train:
        raise InputError(f"{test_set} holds the images that {path} was trained on: give others")
    if images == origin.data.validation and "best" in (metadata.get("checkpoint"), weights.stem):
        raise InputError(f"{test_set} holds the images that have chosen {path}: give others")


def load_trained_model(
    path: Path | str,
    *,
    checkpoint: str | None = None,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    progress: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """Load the weights at `path` and their data set; `evaluate` has the arguments.

    Raises:
        InputError: the file or the data is not there, or the weights are of another model.
    """
    resolve_device(device)  # before anything is downloaded
    weights = models.find_weights(path, checkpoint)
    warn_if_edited(weights.parent)
    state, metadata = models.read_weights(weights)
    origin = models.read_origin(metadata, weights)
    config = (origin.config if origin else Config(recipe="unknown")).override(overrides or {})
    if config.data.dataset == "folder" and not Path(data_dir).is_dir():
        raise InputError(
            f"{weights} was trained on a folder of images, and {data_dir} is none: give that folder as data_dir, or "
            "other images as test_set"
        )
    dataset = data.load_by(
        config.data, Path(data_dir), channels=models.input_channels(state), download=download, progress=progress
    )
    if origin and origin.config.data.dataset == config.data.dataset:
        _require_division(weights, origin.config.data, config.data, dataset)
    classes = origin.classes if origin else dataset.classes
    if classes != tuple(dataset.classes):
        raise InputError(f"{weights} knows the classes {', '.join(classes)}; the data has {', '.join(dataset.classes)}")
    return TrainedModel(
        weights=weights,
        predictor=load_predictor(weights, device=device, overrides=overrides, dataset=dataset),
        config=config,
        config_known=origin is not None,
        dataset=dataset,
        fingerprint=origin.data if origin and origin.config.data == config.data else None,
        knows_held_out=(origin is not None and origin.knows_held_out) or _noted(weights),
    )


def _require_division(weights: Path, trained: Data, now: Data, dataset: data.Dataset) -> None:
    """Raise `InputError` for a division that may take images of the training for images that were held out."""

    def held_out(settings: Data) -> int | str:
        if settings.validation is not None:
            return settings.validation
        return "a tenth" if dataset.train.names is not None else len(dataset.train) // 10

    for name, before, given in (
        ("validation", held_out(trained), held_out(now)),
        ("split_seed", trained.split_seed, now.split_seed),
    ):
        if given != before and held_out(now) != 0:  # else none are held out
            raise InputError(
                f"{name} is {given}: the run of {weights} had {before}, and other held-out images may be among those "
                "it was trained on: leave it out"
            )


def _noted(weights: Path) -> bool:
    """Return whether the run in the folder of a weights file says so: of earlier versions the file does not."""
    folder = RunFolder(weights.parent)
    start = folder.environment().started_from if folder.started() else None
    return start is not None and start.may_know_held_out
