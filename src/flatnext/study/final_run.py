"""The run to train after a study: the recipe that it advises, on all the images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.runs.folder import RunFolder, find_runs
from flatnext.study.advice import advice, recommended
from flatnext.study.reading import read_study
from flatnext.training.inputs import KnownData, data_of


@dataclass(frozen=True, kw_only=True)
class FinalRun:
    """The config of the run, where the study's data lay (None: not there any more), and why it is this, in words.

    `known` are the study's data: if they have changed, that is to be said.
    """

    config: Config
    data_dir: Path | None
    why: str
    known: KnownData | None = None


def final_run(study: Path) -> FinalRun:
    """Return the run that the study in a folder advises.

    It has the config of the advised recipe, with seed 0, but trains on all the training images: none are held out to
    choose an epoch, so that the last one is kept, and `train_images` is lifted. `calibration` images stay held out.

    `InputError`: the study has no finished runs of two recipes to choose from, or none of them trained.
    """
    whole = read_study([study])
    best = recommended(whole)
    if best is None or len(whole.groups) < 2:
        raise InputError(
            f"{study} does not say which recipe to take ({advice(whole)}): finish it, with two recipes at least, or "
            "train one by its name, with --recipe in place of --like"
        )
    held_out = best.config.data.validation != 0
    data = replace(best.config.data, validation=0, train_images=None)
    notes = ["none are held out, so the last epoch is kept"] if held_out else []
    if best.config.data.train_images is not None:
        notes.append(f"the study had {best.config.data.train_images:,} to train on")
    if data.calibration:
        notes.append(f"{data.calibration:,} stay apart for calibration")
    why = f"{advice(whole)} It is trained on all the training images{': ' if notes else ''}{'; '.join(notes)}."
    folders = (RunFolder(path).data_dir() for path in find_runs(study))
    return FinalRun(
        config=replace(best.config, data=data),
        data_dir=next((path for path in folders if path), None),
        why=why,
        known=data_of(find_runs(study), data, None),
    )
