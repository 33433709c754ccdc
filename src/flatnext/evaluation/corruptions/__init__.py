"""Common corruptions: is a model robust to noise, blur, weather and compression that it was not trained for?

The fifteen corruptions at five severities of Hendrycks and Dietterich (arXiv 1903.12261), made from the images at hand
with the parameters of CIFAR-10-C, without a download; or the published files of CIFAR-10-C, where one has them.
"""

from flatnext.evaluation.corruptions.published import Cifar10C, read_cifar10_c
from flatnext.evaluation.corruptions.scores import evaluate_cifar10_c, evaluate_corruptions
from flatnext.evaluation.corruptions.table import NAMES, SEVERITIES, corrupt

__all__ = [
    "NAMES",
    "SEVERITIES",
    "Cifar10C",
    "corrupt",
    "evaluate_cifar10_c",
    "evaluate_corruptions",
    "read_cifar10_c",
]
