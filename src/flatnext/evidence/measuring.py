"""The measurements: each is a function of a trained model, a plan, and where its progress is reported.

Which images a measurement uses depends on the data and the plan, never on the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flatnext import data
from flatnext.device import keep_digits
from flatnext.errors import InputError
from flatnext.evaluation import attacks, corruptions, flatness, score
from flatnext.evaluation.attacks.ball import Norm
from flatnext.evaluation.predictor import Predictor
from flatnext.evaluation.saliency import explained_mistakes
from flatnext.evaluation.temperature import calibration_with_scaling
from flatnext.evaluation.trained_model import TrainedModel
from flatnext.evidence.plan import EvidencePlan
from flatnext.progress import Progress, Weighted
from flatnext.runs.evidence import DIVISION, Attacks, Calibration, Corruptions, Errors, Flatness, TestSets

Measure = Callable[[TrainedModel, EvidencePlan, Progress], Any]

AMP_RADII = (0.01, 0.05, 0.5)  # epsilon: a ball for each tensor
SAM_RADII = (0.05, 0.1, 0.2)  # rho
ASAM_RADII = (0.5, 1.0)
GRADIENT_RADII = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SURFACE_EXTENT, SURFACE_POINTS = 0.5, 11
LANCZOS_STEPS, PROBES = 15, 8
MISTAKES = 12
FEWEST = 8  # images of the sanity checks


def sample_indices(split: data.Split, count: int, seed: int) -> Tensor:
    """Draw the indices of `count` images (of all, if there are no more), the same share of each class."""
    if count >= len(split):
        return torch.arange(len(split))
    generator = torch.Generator().manual_seed(seed)
    if count <= int(split.labels.max()):  # not one for each class: shares would always leave the same classes out
        return torch.randperm(len(split), generator=generator)[:count].sort().values
    return data.stratified(split.labels, count, generator)[0]


def sample(split: data.Split, count: int, seed: int) -> data.Split:
    """Return the images of `sample_indices`."""
    return split.select(sample_indices(split, count, seed))


def measure_calibration(model: TrainedModel, plan: EvidencePlan, progress: Progress) -> Calibration:
    """Return NLL, Brier score, calibration errors and reliability, also after temperature scaling."""
    test = sample(model.split("test"), plan.images, plan.seed)
    validation = sample(model.split("validation"), plan.images, plan.seed) if model.has_validation_split else None
    total = len(test) + (len(validation) if validation else 0)
    logits = model.predictor(test.images)
    progress(len(test), total)
    calibration = calibration_with_scaling(
        logits,
        test.labels,
        validation_logits=model.predictor(validation.images) if validation else None,
        validation_labels=validation.labels if validation else None,
    )
    progress(total, total)
    return calibration


def measure_errors(model: TrainedModel, plan: EvidencePlan, progress: Progress) -> Errors:
    """Return the confusion matrix, and the most confident errors with Grad-CAM pictures."""
    indices = sample_indices(model.split("test"), plan.images, plan.seed)
    test = model.split("test").select(indices)
    logits = model.predictor(test.images)
    progress(1, 2)
    scores = score(logits, test.labels)
    mistakes = explained_mistakes(model.predictor, logits, test, most=MISTAKES)
    progress(2, 2)
    assert scores.confusion is not None
    return Errors(
        count=scores.count,
        accuracy=scores.accuracy,
        confusion=scores.confusion,
        mistakes=tuple(replace(m, index=int(indices[m.index])) for m in mistakes),  # in the whole test set
    )


def measure_flatness(model: TrainedModel, plan: EvidencePlan, progress: Progress) -> Flatness:
    """Return curves, surface, sharpness and Hessian, on training images, as `full_precision` says.

    A checkpoint that does not say what it was trained on is measured on test images.
    """
    name = "train" if model.config_known else "test"
    split = model.split(name)
    predictor = full_precision(model.predictor)

    def objective(part: int, batch_size: int = 128) -> flatness.Objective:
        return flatness.Objective(predictor, sample(split, plan.share(part), plan.seed), batch_size=batch_size)

    quarter, half = objective(4), objective(2)
    if not math.isfinite(quarter.clean):
        raise InputError(f"the loss on {name} images is not finite: the run diverged, and has no minimum to measure")
    # Rough costs in seconds for 1,000 images on two cores, so that progress moves evenly.
    step = Weighted(progress, curves=75, gradient=30, sharpness=90, surface=70, eigenvalues=90, trace=60)
    random = flatness.loss_curve(quarter, seed=plan.seed, progress=step("curves"))
    gradient = flatness.gradient_curve(quarter, GRADIENT_RADII, progress=step("gradient"))
    amp = flatness.amp_sharpness(half, AMP_RADII)
    sam = flatness.sam_sharpness(half, SAM_RADII)
    asam = flatness.asam_sharpness(half, ASAM_RADII)
    step("sharpness")(1, 1)
    hessian = objective(32, batch_size=32)  # it takes 0.12 GB an image
    surface = flatness.loss_surface(
        objective(16), extent=SURFACE_EXTENT, points=SURFACE_POINTS, seed=plan.seed, progress=step("surface")
    )
    steps = min(LANCZOS_STEPS, hessian.dimension)
    return Flatness(
        split=name,
        random=random,
        gradient=gradient,
        surface=surface,
        amp=amp,
        sam=sam,
        asam=asam,
        eigenvalues=flatness.hessian_eigenvalues(hessian, steps=steps, seed=plan.seed, progress=step("eigenvalues")),
        trace=flatness.hessian_trace(hessian, probes=PROBES, seed=plan.seed, progress=step("trace")),
    )


def measure_corruptions(
    model: TrainedModel, plan: EvidencePlan, progress: Progress, *, published: Path | None = None
) -> Corruptions:
    """Return the accuracy under the fifteen corruptions, generated, and on the files of CIFAR-10-C where given."""
    test = sample(model.split("test"), plan.share(2), plan.seed)
    files = None if published is None else published_images(model, published)
    step = Weighted(progress, generated=1, published=0 if files is None else 1)
    generated = corruptions.evaluate_corruptions(
        model.predictor, test.images, test.labels, seed=plan.seed, progress=step("generated")
    )
    if files is None:
        return Corruptions(generated=generated)
    limit = min(plan.share(2), len(files.labels))
    scores = corruptions.evaluate_cifar10_c(model.predictor, files, limit=limit, progress=step("published"))
    return Corruptions(generated=generated, published=scores)


def published_images(model: TrainedModel, folder: Path) -> corruptions.Cifar10C:
    """Return the published corrupted images. `InputError`: they are not made from the test images of this data set."""
    files, test = corruptions.read_cifar10_c(folder), model.split("test")
    if test.images.shape[2:] != (32, 32) or not torch.equal(files.labels, test.labels):
        raise InputError(f"{folder} is not made from the test images of {model.config.data.dataset}: leave it out")
    return files


def measure_attacks(model: TrainedModel, plan: EvidencePlan, progress: Progress) -> Attacks:
    """Return the accuracy under FGSM, PGD and AutoAttack, and the checks that gradients are not masked.

    As `full_precision` says: bf16 rounds a pixel by up to 0.4/255, which is much of a small budget.
    """
    test = sample(model.split("test"), plan.share(16), plan.seed)
    few = sample(model.split("test"), max(FEWEST, plan.share(32)), plan.seed)
    predictor = full_precision(model.predictor)
    budgets = _budgets(plan)
    runs = [(attack, norm, budget) for norm, row in budgets for budget in row for attack in ("fgsm", "pgd")]
    if plan.autoattack == "standard" and len(predictor.classes) >= 4:  # one of its losses needs as many
        runs += [("autoattack", norm, row[:2][-1]) for norm, row in budgets[:1]]
    cost = {"fgsm": 1.0, "pgd": 8.0, "autoattack": 300.0}
    step = Weighted(progress, **{f"{i}": cost[attack] for i, (attack, _, _) in enumerate(runs)}, checks=20)
    attack_images = partial(attacks.robustness, predictor, test.images, test.labels, seed=plan.seed)
    results = [
        attack_images(attacks=attack, norm=norm, budget=budget, progress=step(f"{i}")).result
        for i, (attack, norm, budget) in enumerate(runs)
    ]
    norm, row = budgets[0]
    checks = attacks.sanity_checks(
        predictor,
        few.images,
        few.labels,
        norm=norm,
        budget=min(row),
        slack=min(1.5 / len(few), 0.99),  # an image may stray
        seed=plan.seed,
        progress=step("checks"),
    )
    return Attacks(attacks=tuple(results), checks=checks)


def _budgets(plan: EvidencePlan) -> list[tuple[Norm, tuple[float, ...]]]:
    both: list[tuple[Norm, tuple[float, ...]]] = [("linf", plan.linf), ("l2", plan.l2)]
    return [(norm, budgets) for norm, budgets in both if budgets]


def full_precision(predictor: Predictor) -> Predictor:
    """Return the predictor in single precision (double, if it is in that), for what bf16's rounding would hide."""
    if predictor.precision != "bf16":
        return predictor
    keep_digits("fp32")  # the model was placed for bf16
    return replace(predictor, precision="fp32")


def measure_test_sets(
    model: TrainedModel, plan: EvidencePlan, progress: Progress, *, paths: tuple[Path, ...]
) -> TestSets:
    """Return the scores on other images of the same classes, all of them."""
    sets = {}
    for number, path in enumerate(paths, start=1):
        images = model.other_test_set(path)
        sets[data.test_set_name(path)] = score(model.predictor(images.images), images.labels)
        progress(number, len(paths))
    return TestSets(sets=sets)


@dataclass(frozen=True)
class Kind:
    """How something is measured, and what its result depends on beside the weights and `COMMON_SETTINGS`."""

    measure: Measure
    settings: tuple[str, ...]


COMMON_SETTINGS = ("images", "seed", "dataset", "image_size", "data_dir")

CHANGES = ("resize", "channels", "skip_damaged", "calibration")
"""Settings that change which pixels are measured: a result has those that were given."""

KINDS = {
    "calibration": Kind(measure_calibration, ("precision", *DIVISION)),
    "errors": Kind(measure_errors, ("precision",)),
    "flatness": Kind(measure_flatness, DIVISION),
    "corruptions": Kind(measure_corruptions, ("precision", "cifar10_c")),
    "attacks": Kind(measure_attacks, ("linf", "l2", "autoattack")),
    "test_sets": Kind(partial(measure_test_sets, paths=()), ("precision", "test_sets", "test_set_images")),
}
"""The measurements by their names in `flatnext.runs.evidence.Evidence`, which has the classes of their results."""
