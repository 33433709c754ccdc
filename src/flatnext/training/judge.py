"""What a run's weights are worth, on the images held out for choosing and on those for judging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flatnext import evaluation
from flatnext.data import Partition, Split
from flatnext.data.normalization import Normalization
from flatnext.evaluation import Predictor
from flatnext.processes import ALONE, Processes
from flatnext.runs.scores import Scores


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores a model on the splits of its data: the validation set chooses, the test set only judges."""

    model: nn.Module
    partition: Partition
    device: torch.device
    precision: str
    channels_last: bool
    processes: Processes = ALONE

    def predict(self, split: Split) -> torch.Tensor:
        """Return the logits of a split's images. Each process works on its share; all get the whole."""
        own = self.processes.share(torch.arange(len(split)))
        predictor = Predictor(
            model=self.model,
            classes=self.partition.classes,
            normalization=Normalization(self.partition.mean, self.partition.std),
            device=self.device,
            precision=self.precision,
            channels_last=self.channels_last,
        )
        part = predictor(split.images[own] if self.processes.count > 1 else split.images)
        if self.processes.count == 1:
            return part
        whole = torch.zeros(len(split), part.shape[1], dtype=part.dtype, device=self.device)
        whole[own.to(self.device)] = part.to(self.device)
        self.processes.sum([whole])
        return whole.cpu()

    def validation(self) -> Scores | None:
        """Return the scores on the validation set, if there is one."""
        split = self.partition.validation
        return None if split is None else evaluation.score(self.predict(split), split.labels)

    def test(self) -> Scores:
        """Return the scores on the test set."""
        return evaluation.score(self.predict(self.partition.test), self.partition.test.labels)

    def final(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return, as JSON, the scores of the present weights on both sets, and the most confident errors."""
        validation, test = self.validation(), self.partition.test
        logits = self.predict(test)
        scores = {
            "validation": validation and validation.to_json(confusion=False),
            "test": evaluation.score(logits, test.labels).to_json(),
        }
        return scores, [vars(mistake) for mistake in evaluation.most_confident_errors(logits, test)]


def better(new: Scores, old: dict[str, Any] | None) -> bool:
    """Return whether accuracy is higher than in `old` (scores as JSON), or as high with a lower loss."""
    if old is None or new.accuracy != old["accuracy"]:
        return old is None or new.accuracy > old["accuracy"]
    return old["loss"] is None or (new.loss is not None and new.loss < old["loss"])
