"""What to know in reading the evidence: below the claims, and in How to read this."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from flatnext.report.blocks import Block, Text
from flatnext.report.numbers import listing
from flatnext.runs.evidence import Evidence
from flatnext.study.claims import ACCURACY, CLAIMS, Answer, can_answer
from flatnext.study.table import Study


def explained(answers: Sequence[Answer]) -> list[Block]:
    """Return what the verdicts rest on, and what they do not say."""
    blocks: list[Block] = [
        Text(
            "The verdicts are those of the paired t-test over seeds, corrected for the measures that answer one claim; "
            "How to read this says which they are."
        ),
        Text(
            "All seeds are measured on the same images. The test sees chance between seeds, not between images: "
            f"{_uncertain(answers)}what is shown holds for these images. Each claim is a question of its own: "
            f"where nothing differs at all, about a third of studies would still show one of the {len(CLAIMS)}, or its "
            "opposite."
        ),
    ]
    worse = [a.contrast.group.label for a in answers if a.claim is ACCURACY and a.verdict == "the opposite is shown"]
    blocks += [
        Text(
            f"{label} is less accurate here. A network that has learned less also overfits less, and is often flatter "
            f"and less sure of itself: what is shown of these three does not speak for {label}."
        )
        for label in worse
    ]
    return blocks


def _uncertain(answers: Sequence[Answer]) -> str:
    """Return how uncertain the accuracy on the fewest images is, by the normal approximation of the binomial."""
    rows = [tested.row for answer in answers for tested in answer.tested if tested.row.measure.unit == "%"]
    counts = [count for row in rows for count in row.images()]
    if not counts:
        return ""
    half = 1.96 * 50 / math.sqrt(min(counts))
    points = f"{half:.0f} points" if half >= 2 else f"{half:.1f} points"
    return f"with {min(counts):,} images an accuracy of 50 % is uncertain by ± {points}, and "


def how_to_read(study: Study) -> tuple[str, ...]:
    """Return what to know in reading the section."""
    held = [run.evidence for run in study.runs if run.evidence]
    return (*(_claims() if can_answer(study) else ()), *(_measures(held) if held else ()))


def _claims() -> Iterator[str]:
    yield (
        "Claims: a claim is shown if the paired t-test shows a difference in its direction for at least one of its "
        "measures and in the other direction for none; the opposite is shown the other way round; measures that "
        "disagree show neither. p is corrected by Holm's procedure for the measures and recipes that answer one "
        "claim (test accuracy: as under Comparison), not for the number of claims. Of a measure that was taken at "
        "several radii the middle one counts, of several attacks with one budget the one that leaves the least "
        "accuracy to the two. Not shown does not mean that there is no difference: with few seeds only large "
        "ones are."
    )
    yield (
        "Higher accuracy at each epoch is shown if the test shows it at every epoch by itself. It is shown to be false "
        "if the test shows the contrary at some epoch, after correction for their number."
    )
    yield (
        "A flatter minimum: the verdict rests on the rise along random directions, which are scaled to the weights, "
        "and on ASAM's sharpness, which hardly depends on their scale (it adds 0.01 to each weight's size); AMP's and "
        "SAM's sharpness, the gradient's direction and the Hessian depend on it, and batch norm makes it arbitrary."
    )
    yield (
        "Accuracy under attack or corruption: a recipe that is more accurate without attack or corruption starts "
        "higher. Whether it loses less is in the row 'accuracy lost'; where it started lower it has less to lose."
    )


def _measures(held: Sequence[Evidence]) -> Iterator[str]:
    parts = [evidence.calibration for evidence in held if evidence.calibration]
    if any(evidence.flatness for evidence in held):
        yield (
            "Sharpness is how far the loss on training images, not augmented, rises under the ascent step of AMP, SAM "
            "or ASAM, and a lower bound of the rise in its ball. AMP's step may be much shorter than its radius: the "
            "row below it says how far it went, over all weights; the radius is that of each tensor. A radius along "
            "random directions is relative to the size of each filter. The Hessian's largest eigenvalue is the "
            "curvature of the loss in its steepest direction, the trace the sum over all directions."
        )
    if parts:
        bins = listing(sorted({str(part.result.bins) for part in parts}))
        yield (
            f"ECE is the mean distance between confidence and accuracy over {bins} bins, weighted by their images; "
            "calibrated perfectly, a model would still show about 0.02 on 1,000 images. Its adaptive form has bins of "
            "equal mass. NLL is the mean of −log of the probability of the true class; it and the Brier score also "
            "reward accuracy. After scaling means: after all outputs were divided by one number, the temperature, "
            "fitted on validation images."
        )
    if any(evidence.attacks for evidence in held):
        yield (
            "FGSM is one step along the sign of the image's gradient (L2: along the gradient), PGD 20 steps from one "
            "random start, autoattack-quick a short form of AutoAttack whose figures are no AutoAttack figures. L∞ "
            "1/255 lets each pixel value change by 1 of 255; L2 bounds the length of the whole change. Accuracy under "
            "attack is an upper bound: a stronger attack may leave less."
        )
    yield (
        "The intervals and p in the folded tables are not corrected: they describe, and some of many miss zero by "
        "chance."
    )
