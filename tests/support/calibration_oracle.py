"""Calibration in NumPy and double precision, image by image."""

import numpy as np


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def oracle(logits, labels, bins):
    """Return NLL, Brier score and ECE, image by image and bin by bin, in NumPy's double precision."""
    probabilities = softmax(np.asarray(logits, np.float64))
    rows = np.arange(len(labels))
    wanted = np.eye(probabilities.shape[1])[labels]
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    ece = 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            ece += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return -np.log(probabilities[rows, labels]).mean(), ((probabilities - wanted) ** 2).sum(axis=1).mean(), ece


def adaptive_oracle(logits, labels, bins):
    """Return the adaptive calibration error, image by image: the bin of one counts those that are less sure."""
    probabilities = softmax(np.asarray(logits, np.float64))
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    groups = {}
    for own, right in zip(confidence, hit, strict=True):
        groups.setdefault(sum(confidence < own) * bins // len(labels), []).append((own, right))
    means = [(len(group), *np.mean(group, axis=0)) for group in groups.values()]
    return sum(n * abs(right - own) for n, own, right in means) / len(labels)
