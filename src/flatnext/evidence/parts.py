"""The parts of the evidence. Each is a function of a model with its data, of the plan, and of where to tell progress.

It returns what `json` can write. Which images a part looks at depends on the data and the plan, never on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flatnext import data
from flatnext.errors import InputError
from flatnext.evaluation import attacks, corruptions, flatness, score
from flatnext.evaluation.attacks.ball import Norm
from flatnext.evaluation.saliency import explained_mistakes
from flatnext.evaluation.subject import Subject
from flatnext.evaluation.temperature import calibration_report
from flatnext.evidence.plan import Plan
from flatnext.evidence.progress import Progress, Weighted

Part = Callable[[Subject, Plan, Progress], dict[str, Any]]

AMP_RADII = (0.01, 0.05, 0.5)  # epsilon: a ball for each tensor
SAM_RADII = (0.05, 0.1, 0.2)  # rho
ASAM_RADII = (0.5, 1.0)
GRADIENT_RADII = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
SURFACE_EXTENT, SURFACE_POINTS = 0.5, 11
LANCZOS_STEPS, PROBES = 15, 8
MISTAKES = 12
FEWEST = 8  # images of the sanity checks


def drawn(split: data.Split, count: int, seed: int) -> Tensor:
    """Return the indices of `count` images (of all, if there are no more), the same share of each class, by a seed."""
    if count >= len(split):
        return torch.arange(len(split))
    generator = torch.Generator().manual_seed(seed)
    if count <= int(split.labels.max()):  # not one for each class: shares would always leave the same classes out
        return torch.randperm(len(split), generator=generator)[:count].sort().values
    return data.stratified(split.labels, count, generator)[0]


def sample(split: data.Split, count: int, seed: int) -> data.Split:
    """Return the images that are `drawn`."""
    return split.select(drawn(split, count, seed))


def calibration(subject: Subject, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Return NLL, Brier score, calibration errors, reliability, and all of them after temperature scaling."""
    test = sample(subject.split("test"), plan.images, plan.seed)
    held_out = _held_out(subject, plan)
    total = len(test) + (len(held_out) if held_out else 0)
    logits = subject.predict(test)
    progress(len(test), total)
    report = calibration_report(
        logits,
        test.labels,
        validation_logits=subject.predict(held_out) if held_out else None,
        validation_labels=held_out.labels if held_out else None,
    )
    progress(total, total)
    return report.to_json()


def _held_out(subject: Subject, plan: Plan) -> data.Split | None:
    """Return images that were neither trained on nor are for testing, if the run had some."""
    held = data.partition(subject.dataset, subject.config.data).validation if subject.traced else None
    return None if held is None else sample(held, plan.images, plan.seed)


def errors(subject: Subject, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Return the confusion matrix, and the surest mistakes with Grad-CAM pictures."""
    indices = drawn(subject.split("test"), plan.images, plan.seed)
    test = subject.split("test").select(indices)
    logits = subject.predict(test)
    progress(1, 2)
    scores = score(logits, test.labels)
    mistakes = explained_mistakes(subject.model, logits, test, most=MISTAKES, **subject.inputs)
    mistakes = [{**each, "index": int(indices[each["index"]])} for each in mistakes]  # in the whole test set
    progress(2, 2)
    return {
        "count": scores.count,
        "accuracy": scores.accuracy,
        "confusion": scores.confusion,
        "mistakes": mistakes,
    }


def full_precision(subject: Subject) -> str:
    """Return the precision of what small changes would drown in otherwise."""
    return "fp64" if subject.precision == "fp64" else "fp32"


def flat(subject: Subject, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Return curves, surface, sharpness and Hessian, on training images in single precision.

    A checkpoint that does not say what it was trained on is measured on test images.
    """
    name = "train" if subject.traced else "test"
    split = subject.split(name)

    def on(part: int, batch: int = 128) -> flatness.MeanLoss:
        images = sample(split, plan.share(part), plan.seed)
        own = {"device": subject.device, "precision": full_precision(subject), "batch_size": batch, **subject.inputs}
        return flatness.MeanLoss(subject.model, images, **own)

    # Rough costs in seconds for 1,000 images on two cores, so that progress moves evenly.
    told = Weighted(progress, curves=75, gradient=30, sharpness=90, surface=70, eigenvalues=90, trace=60)
    few, half = on(4), on(2)
    found: dict[str, Any] = {
        "split": name,
        "random": flatness.loss_curve(few, seed=plan.seed, progress=told("curves")).to_json(),
        "gradient": flatness.gradient_curve(few, GRADIENT_RADII, progress=told("gradient")).to_json(),
    }
    kinds: dict[str, tuple[Callable[..., tuple[flatness.Sharpness, ...]], tuple[float, ...]]] = {
        "amp": (flatness.amp_sharpness, AMP_RADII),
        "sam": (flatness.sam_sharpness, SAM_RADII),
        "asam": (flatness.asam_sharpness, ASAM_RADII),
    }
    for kind, (measure, radii) in kinds.items():
        found[kind] = [one.to_json() for one in measure(half, radii)]
    told("sharpness")(1, 1)
    hessian = on(32, batch=32)  # it takes 0.12 GB an image
    found["surface"] = flatness.loss_surface(
        on(16), extent=SURFACE_EXTENT, points=SURFACE_POINTS, seed=plan.seed, progress=told("surface")
    ).to_json()
    found["eigenvalues"] = flatness.hessian_eigenvalues(
        hessian, steps=min(LANCZOS_STEPS, hessian.dimension), seed=plan.seed, progress=told("eigenvalues")
    ).to_json()
    trace = flatness.hessian_trace(hessian, probes=PROBES, seed=plan.seed, progress=told("trace"))
    return found | {"trace": trace.to_json()}


def corrupted(subject: Subject, plan: Plan, progress: Progress, *, published: Path | None = None) -> dict[str, Any]:
    """Return the accuracy under the fifteen corruptions, generated, and on the files of CIFAR-10-C where given."""
    test = sample(subject.split("test"), plan.share(2), plan.seed)
    files = None if published is None else published_images(subject, published)
    told = Weighted(progress, generated=1, published=0 if files is None else 1)
    generated = corruptions.evaluate_corruptions(
        subject.answer, test.images, test.labels, seed=plan.seed, progress=told("generated")
    )
    there = files and corruptions.evaluate_cifar10_c(
        subject.answer, files, limit=min(plan.share(2), len(files.labels)), progress=told("published")
    )
    return {"generated": generated.to_json(), "published": there and there.to_json()}


def published_images(subject: Subject, folder: Path) -> corruptions.Cifar10C:
    """Return the published corrupted images. `InputError`: they are not made from the test images of this data set."""
    files, test = corruptions.read_cifar10_c(folder), subject.split("test")
    if test.images.shape[2:] != (32, 32) or not torch.equal(files.labels, test.labels):
        raise InputError(f"{folder} is not made from the test images of {subject.config.data.dataset}: leave it out")
    return files


def attacked(subject: Subject, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Return the accuracy under FGSM, PGD and AutoAttack, and the checks that gradients are not masked.

    In single precision: bf16 rounds a pixel by up to 0.4/255, which is much of a small budget.
    """
    test = sample(subject.split("test"), plan.share(16), plan.seed)
    few = sample(subject.split("test"), max(FEWEST, plan.share(32)), plan.seed)
    inputs: Mapping[str, Any] = {**subject.inputs, "precision": full_precision(subject), "seed": plan.seed}
    runs: list[tuple[str, Norm, float]] = [
        (attack, norm, budget) for norm, budgets in _budgets(plan) for budget in budgets for attack in ("fgsm", "pgd")
    ]
    if plan.autoattack != "none" and len(subject.classes) >= 4:  # one of its losses needs as many
        name = "autoattack" if plan.autoattack == "standard" else "autoattack-quick"
        runs += [(name, norm, budgets[:2][-1]) for norm, budgets in _budgets(plan)[:1]]
    cost = {"fgsm": 1.0, "pgd": 8.0, "autoattack-quick": 25.0, "autoattack": 300.0}
    told = Weighted(progress, **{f"{i}": cost[attack] for i, (attack, _, _) in enumerate(runs)}, checks=20)
    measured = [
        attacks.robustness(
            subject.model, test.images, test.labels, attacks=a, norm=n, budget=b, progress=told(f"{i}"), **inputs
        ).to_json()
        for i, (a, n, b) in enumerate(runs)
    ]
    check = partial(attacks.sanity_checks, subject.model, few.images, few.labels, progress=told("checks"), **inputs)
    norm, budgets = _budgets(plan)[0]
    checks = check(norm=norm, budget=min(budgets), slack=min(1.5 / len(few), 0.99))  # an image may stray
    return {"attacks": measured, "checks": [one.to_json() for one in checks]}


def _budgets(plan: Plan) -> list[tuple[Norm, tuple[float, ...]]]:
    both: list[tuple[Norm, tuple[float, ...]]] = [("linf", plan.linf), ("l2", plan.l2)]
    return [(norm, budgets) for norm, budgets in both if budgets]


def other_test_sets(
    subject: Subject, plan: Plan, progress: Progress, *, paths: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Return the scores on other images of the same classes, all of them."""
    sets = {}
    for number, path in enumerate(paths, start=1):
        images = subject.other_test_set(path)
        sets[data.test_set_name(path)] = score(subject.predict(images), images.labels).to_json()
        progress(number, len(paths))
    return {"sets": sets}
