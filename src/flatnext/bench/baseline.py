"""The baseline, which trains and infers as the code of the baseline paper did, in a process of its own.

Images are cropped, flipped and normalised one at a time, on PIL images, by two worker processes of torch's
`DataLoader`; float32 in the contiguous layout; torch's SGD with momentum; loss and accuracy read after every step.
torch, its allocator and its threads are at their defaults, and this project's kernels are off. On a GPU torch may round
float32 convolutions to TF32, as it does by default, and chooses among cuDNN's algorithms by trying them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flatnext import models, ops
from flatnext.bench.child import serve
from flatnext.bench.plan import Setup
from flatnext.bench.timing import seconds
from flatnext.config import Model
from flatnext.data import CIFAR10
from flatnext.schema import dump

BASELINE = "baseline's way"
MEAN, STD = CIFAR10.mean, CIFAR10.std
PADDING = 4
WORKERS = 2
STORED = 2048  # random images in memory; an epoch goes through them many times
EPOCH = 50_000


def random_crop(image: Image.Image, padding: int) -> Image.Image:
    """Pad with black, then cut out a window of the old size at random (torchvision's `RandomCrop`)."""
    width, height = image.size
    padded = ImageOps.expand(image, padding, fill=0)
    top, left = (int(torch.randint(0, 2 * padding + 1, (1,))) for _ in range(2))
    return padded.crop((left, top, left + width, top + height))


def random_flip(image: Image.Image) -> Image.Image:
    """Mirror an image with probability 1/2 (torchvision's `RandomHorizontalFlip`)."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else image


def to_tensor(image: Image.Image) -> Tensor:
    """Return 3 x H x W numbers from 0 to 1 (torchvision's `ToTensor`)."""
    pixels = torch.from_numpy(np.array(image, copy=True))
    return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def normalize(image: Tensor) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel (torchvision's `Normalize`)."""
    mean, std = torch.as_tensor(MEAN), torch.as_tensor(STD)
    return image.clone().sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


class Images(Dataset[tuple[Tensor, int]]):
    """Random images, stored as by torchvision's CIFAR-10 (N x H x W x 3 bytes); each becomes a PIL image when read."""

    def __init__(self, size: int) -> None:
        generator = np.random.default_rng(0)
        self.pixels = generator.integers(0, 256, (STORED, size, size, 3), dtype=np.uint8)
        self.labels = generator.integers(0, 10, STORED).tolist()

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.pixels[index % STORED])
        return normalize(to_tensor(random_flip(random_crop(image, PADDING)))), self.labels[index % STORED]


class BaselineContender:
    """The model with its training, and inference as it is usually run."""

    def __init__(self, model: Model, image_size: int, batch_size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        self.device, self.image_size = device, image_size
        self.model = models.build(model, 10).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)
        self.loss = nn.CrossEntropyLoss()
        self.loader = DataLoader(Images(image_size), batch_size=batch_size, shuffle=True, num_workers=WORKERS)
        self.batches: Iterator[Any] = iter(())
        self.sums = {"loss": 0.0, "correct": 0, "count": 0}

    def train(self, steps: int) -> float:
        """Take this many steps; return their seconds, the wait for the workers included."""
        self.model.train()
        return seconds(lambda: self._take(steps), self.device)

    def _take(self, steps: int) -> None:
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        batch = next(self.batches, None)
        if batch is None:  # the first step, or the end of an epoch
            self.batches = iter(self.loader)
            batch = next(self.batches)
        images, labels = (tensor.to(self.device) for tensor in batch)
        self.optimizer.zero_grad()
        outputs = self.model(images)
        loss = self.loss(outputs, labels)
        loss.backward()
        self.optimizer.step()
        self.sums["loss"] += loss.item()
        self.sums["correct"] += outputs.max(1)[1].eq(labels).sum().item()
        self.sums["count"] += len(labels)

    def infer(self, batch_size: int, calls: int) -> float:
        """Run the model forward on random images this many times; return the seconds."""
        self.model.eval()
        images = torch.randn(batch_size, 3, self.image_size, self.image_size, device=self.device)
        with torch.no_grad():
            return seconds(lambda: [self.model(images) for _ in range(calls)], self.device)


def settings_of(setup: Setup, batch_size: int) -> dict[str, Any]:
    """Return the settings of a process that runs the baseline."""
    shape = {"image_size": setup.plan.image_size, "batch_size": batch_size, "device": str(setup.device)}
    return {"model": dump(setup.plan.model), **shape}


def make(settings: dict[str, Any]) -> BaselineContender:
    """Return the contender of these settings."""
    model, device = Model(**settings["model"]), torch.device(settings["device"])
    return BaselineContender(model, settings["image_size"], settings["batch_size"], device)


def main() -> None:
    """Answer the requests of the parent process, `train` or `infer`, with the seconds."""
    with ops.disabled():
        contender = make(json.loads(sys.argv[1]))

        def handle(request: dict[str, Any]) -> dict[str, Any]:
            works: dict[str, Callable[..., float]] = {"train": contender.train, "infer": contender.infer}
            work = works[request.pop("do")]
            return {"seconds": work(**request), "threads": torch.get_num_threads()}

        serve(handle)


if __name__ == "__main__":
    main()
