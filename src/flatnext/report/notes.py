"""The report's part on what its words and figures mean."""

from __future__ import annotations

from flatnext.report.blocks import Section, Table
from flatnext.report.tables import FEW_IMAGES
from flatnext.study.claims import can_answer
from flatnext.study.statistics import DRAWS, EXACT_UP_TO
from flatnext.study.study import Study

GENERAL = {
    "last, best": "The network after the last epoch, and after the epoch with the highest accuracy (of uneven classes: "
    "balanced accuracy) on the validation split, which is held out of the training set. The test set chose no epoch.",
    "±": "The standard deviation between seeds (n − 1).",
    "interval": "Of a mean over seeds, by Student's t. That of an accuracy is cut at 0 and 100 %, that of a difference "
    "at 100 points: no accuracy lies beyond, so that the cut takes nothing from its 95 %. An interval that reaches "
    "such an end says that the seeds are too few: with two it is 12.7 standard errors wide to each side.",
    "comparison": "Within a seed: with the same model and data a seed gives two recipes the same initial weights and "
    "the same order of images. Interval and verdict are those of the paired t-test, a verdict from three seeds on. It "
    "sees chance between seeds, not between images, splits or test sets.",
    "p, Holm": "Corrected for the number of comparisons that answer one question, also those that were planned and are "
    "not finished, and the interval with it: the k-th smallest p of m belongs to an interval of 1 − 0.05 / "
    "(m − k + 1), and all that follow one that is not below 0.05 to an interval of its level. So an interval leaves "
    "zero out exactly where p is below 0.05, and by chance any of them does in at most 5 % of studies.",
    "in brackets": f"An accuracy on fewer than {FEW_IMAGES:,} images would differ on other images of the same kind: "
    "Wilson's interval of a share. Recipes are compared on the same images, where most of that is common to both.",
    "p, sign flips": "A two-sided permutation test on the same differences: over all patterns of signs up to "
    f"{EXACT_UP_TO} seeds, over {DRAWS:,} random ones beyond. With n seeds p is at least 2 / 2ⁿ.",
    "curves": "In training: means over an epoch while the weights change, on augmented images. Held out: after the "
    "epoch. A loss far above that of a guess runs out of its panel.",
    "measurements.csv": "The file beside this page with every number: a row for each run, measure, split and place.",
}

SEQUENTIAL = {
    "sequential t-test": "Seeds were added until the comparisons were decided. All intervals over seeds and all p are "
    "of a t-test that allows for a look after every seed: the Bayes factor of a difference against none, at whose "
    "inverse p stands (arXiv 1807.09077, 2310.03722). They are wider than those of a number of seeds that was fixed "
    "beforehand.",
}

CLAIMS = {
    "shown": "The t-test shows a difference in the claim's direction for at least one of its measures, and in the "
    "other direction for none; the opposite the other way round. Not shown does not mean that there is no difference. "
    "Of several radii the middle one counts, of several attacks within a budget the strongest.",
    "at each epoch": "Shown if the test shows it at every epoch by itself; shown to be false if the test shows the "
    "contrary at some epoch, corrected for their number.",
    "flatter": "Decided by ASAM's sharpness and by the rise along random directions, which hardly depend on the scale "
    "of the weights. The other measures do, and batch norm makes that scale arbitrary.",
    "accuracy lost": "What an attack or corruption takes. A more accurate recipe starts higher and has more to lose.",
}

MEASURES = {
    "flatness": {
        "sharpness": "How far the loss rises under the ascent step of AMP, SAM or ASAM: a lower bound of the rise in "
        "its ball. AMP's step may be much shorter than its radius, which is that of each tensor.",
        "rise": "Of the loss at a radius from the solution, which is relative to the size of each filter.",
    },
    "calibration": {
        "ECE": "The mean distance between confidence and accuracy over bins, weighted by their images; in its adaptive "
        "form bins hold equally many. Calibrated perfectly, a model would still show about 0.02 on 1,000 images.",
        "after scaling": "After all outputs were divided by the temperature, a number fitted on validation images.",
    },
    "attacks": {
        "attacks": "FGSM is one step along the gradient, PGD 20 steps from a random start. L∞ 1/255 lets each pixel "
        "value change by 1 of 255; L2 bounds the length of the whole change. The accuracies are upper bounds.",
    },
}


def notes(study: Study) -> Section:
    """Return what to know in reading the report."""
    terms = GENERAL | (SEQUENTIAL if study.sequential else {}) | (CLAIMS if can_answer(study) else {})
    for name, more in MEASURES.items():
        if any(getattr(run.evidence, name, None) for run in study.runs):
            terms |= more
    table = Table("Words and figures", (), tuple(terms.items()), numeric=False, stacked=True)
    return Section("notes", "How to read this", (table,))
