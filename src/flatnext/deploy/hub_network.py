"""A trained network that normalises its images itself, as hubs of models give it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from flatnext.data import Normalization
from flatnext.deploy.export_source import read_source


class TrainedNetwork(nn.Module):
    """A network with the normalisation of its images: uint8 images in, logits out.

    Attributes:
        network: maps normalised images to logits.
        normalization: mean and std of its images.
        classes: `classes[i]` is the name of logit i.
        image_size: pixels a side of the images that it was trained on.
    """

    def __init__(
        self, network: nn.Module, normalization: Normalization, classes: tuple[str, ...], image_size: int
    ) -> None:
        super().__init__()
        self.network, self.normalization = network, normalization
        self.classes, self.image_size = classes, image_size

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (N x C x H x W) to logits (N x classes). `InputError`: they are of another kind."""
        return self.network(self.normalization(images))


def trained_network(name: str | Path) -> TrainedNetwork:
    """Return weights that ship, of a file, a run folder or `hf://user/name`, in evaluation mode. Errors as of these."""
    source = read_source(name)
    manifest = source.manifest()
    network = TrainedNetwork(source.model, source.origin.normalization, manifest.classes, manifest.image_size)
    return network.eval()
