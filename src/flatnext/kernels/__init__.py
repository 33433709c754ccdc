"""Faster forms of a training pass: batch norm with what follows it, and the grouped convolution.

A function here gives what torch's operations give, to rounding. On a CPU it takes a kernel of our own where that is
compiled, fits the tensors and was measured to be faster; the grouped convolution has forms for a GPU as well. Elsewhere
(evaluation, a model that is compiled or exported) torch's operations are called. The kernels have no second derivative:
`disabled()` is for that.
"""

from flatnext.kernels.build import library
from flatnext.kernels.grouped import grouped_convolution
from flatnext.kernels.norm import batch_norm
from flatnext.kernels.switch import disabled

__all__ = ["batch_norm", "disabled", "grouped_convolution", "library"]
