"""Faster forms of the operations of a training pass: batch norm with what follows it, and convolutions.

A function here returns what torch's operations return, to rounding. On a CPU it uses a kernel of our own (`ops.cpu`)
where that is compiled, fits the tensors and was measured to be faster; on a GPU one of the forms in `ops.cuda`, which
have not been measured on a GPU yet. Elsewhere (evaluation, a model that is compiled or exported) it calls torch's
operations, and for the gradient of a gradient as well.
"""

from flatnext.ops.cpu.build import library
from flatnext.ops.layers import batch_norm, grouped_convolution, pointwise_convolution
from flatnext.ops.switch import disabled

__all__ = ["batch_norm", "disabled", "grouped_convolution", "library", "pointwise_convolution"]
