"""The Hessian of the mean loss by products with vectors: its largest eigenvalues and its trace.

The Hessian is that of the data's loss in evaluation mode: weight decay, which would add its coefficient to every
eigenvalue, is not in it, nor is the derivative of batch norm's batch statistics. The exact eigenvalues of the loss on
the given images are found; how they vary with the images is another question, so the number of images is returned.
ReLU's second derivative is 0 everywhere: what its kinks add to the loss over a longer way, a `Curve` sees and the
Hessian does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor

from flatnext.errors import InputError
from flatnext.evaluation.flatness.objective import Objective, check_number
from flatnext.progress import Progress, silent
from flatnext.runs.evidence import Eigenvalues, Trace

PROBES_AT_ONCE = 4  # they share the gradient's graph; each needs twice the weights' memory


def hessian_eigenvalues(
    objective: Objective,
    number: int = 1,
    *,
    steps: int = 30,
    tolerance: float = 0.01,
    seed: int = 0,
    progress: Progress = silent,
) -> Eigenvalues:
    """Return the `number` largest eigenvalues by Lanczos' method with full reorthogonalisation.

    It stops after `steps` products, or when the residual of each is at most `tolerance` times the largest in magnitude.
    Where an invariant subspace is exhausted it goes on from a new random vector, so that as many steps as weights find
    all eigenvalues, with their multiplicity. The start is drawn from `seed`. An eigenvalue whose eigenvector is
    orthogonal to it is not seen, which does not happen by chance. Fewer steps may miss one of several that are equal.

    Cost: at most `steps` Hessian-vector products (on a CPU about 6 forward and backward passes each) and steps + 1
    vectors of memory. Raises `InputError` for a bad setting, bf16, or a Hessian that is not finite.
    """
    dimension = objective.dimension
    check_number(1, number=number)
    check_number(0, tolerance=tolerance)
    if number > dimension:
        raise InputError(f"number is {number}: the model has {dimension} weights, so give at most that")
    if steps < number:
        raise InputError(f"steps is {steps}: to find number={number} eigenvalues give at least as many")
    steps = min(steps, dimension)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for alpha, beta in _lanczos(objective, steps, seed):
        diagonal.append(alpha)
        off_diagonal.append(beta)
        progress(len(diagonal), steps)
        values, residuals = _ritz(diagonal, off_diagonal)
        converged = len(values) >= number and max(residuals[-number:]) <= tolerance * max(map(abs, values))
        # An exhausted subspace (beta is 0) has every eigenvalue that there is, but once only: go on for the others.
        if converged and (number == 1 or all(off_diagonal)):
            break
    return Eigenvalues(
        values=tuple(reversed(values[-number:])),
        residuals=tuple(reversed(residuals[-number:])),
        smallest=values[0],
        smallest_residual=residuals[0],
        converged=converged,
        steps=len(diagonal),
        dimension=dimension,
        precision=objective.precision,
        count=objective.count,
    )


def hessian_trace(objective: Objective, *, probes: int = 10, seed: int = 0, progress: Progress = silent) -> Trace:
    """Return the trace by Hutchinson's estimator: the mean of v'Hv over vectors of random signs (Rademacher).

    A sample's variance is twice the sum of the squares off the Hessian's diagonal, so that the standard error falls
    with the root of `probes`. Cost: `probes` Hessian-vector products, which share a gradient's graph by
    `PROBES_AT_ONCE`. Raises `InputError` for a bad setting, bf16, or a Hessian that is not finite.
    """
    check_number(1, probes=probes)
    generator = torch.Generator().manual_seed(seed)
    samples: list[float] = []
    while len(samples) < probes:
        chunk = [_signs(objective, generator) for _ in range(min(PROBES_AT_ONCE, probes - len(samples)))]
        sums = [0.0] * len(chunk)
        for share, products in objective.hessian_products(chunk):
            for i, product in enumerate(products):
                sums[i] += share * _dot(chunk[i], product)
        samples += sums
        progress(len(samples), probes)
    if not all(map(math.isfinite, samples)):
        raise InputError("the Hessian is not finite at these weights: look at the loss first")
    return Trace(
        trace=statistics.fmean(samples),
        standard_error=statistics.stdev(samples) / math.sqrt(probes) if probes > 1 else None,
        samples=tuple(samples),
        probes=probes,
        dimension=objective.dimension,
        precision=objective.precision,
        count=objective.count,
    )


def _lanczos(objective: Objective, steps: int, seed: int) -> Iterator[tuple[float, float]]:
    """Yield the entries of the tridiagonal matrix: on the diagonal, and below it (0: the subspace is exhausted)."""
    generator = torch.Generator().manual_seed(seed)
    basis = [_new_direction(objective, [], generator)]
    scale = 0.0
    rounding = 16 * torch.finfo(basis[0].dtype).eps
    while True:
        product = objective.hessian_product(basis[-1])
        alpha = _dot(basis[-1], product)
        size = float(product.norm())
        if not math.isfinite(size):
            raise InputError("the Hessian is not finite at these weights: look at the loss first")
        scale = max(scale, size)
        _orthogonalise(product, basis)
        beta = float(product.norm())
        if beta <= rounding * scale:
            beta = 0.0
        yield alpha, beta
        if len(basis) == min(steps, objective.dimension):
            return
        basis.append(_unit(product.div_(beta), basis) if beta else _new_direction(objective, basis, generator))


def _ritz(diagonal: list[float], off_diagonal: list[float]) -> tuple[list[float], list[float]]:
    """Return the eigenvalues of the tridiagonal matrix, rising, and the residual of each."""
    size = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i, beta in enumerate(off_diagonal[: size - 1]):
        matrix[i, i + 1] = matrix[i + 1, i] = beta
    values, vectors = torch.linalg.eigh(matrix)
    return values.tolist(), (vectors[-1].abs() * off_diagonal[-1]).tolist()


def _orthogonalise(vector: Tensor, basis: list[Tensor]) -> None:
    """Take from a vector its part in the span of an orthonormal basis; twice, which is enough (Parlett)."""
    for _ in range(2):
        for other in basis:
            vector.sub_(other, alpha=_dot(vector, other))


def _new_direction(objective: Objective, basis: list[Tensor], generator: torch.Generator) -> Tensor:
    """Draw a unit vector that is orthogonal to the basis; on the CPU, so that every device gets the same."""
    first = objective.parameters[0]
    vector = torch.randn(objective.dimension, generator=generator, dtype=torch.float64).to(first.device, first.dtype)
    return _unit(vector, basis)


def _unit(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """Make a vector orthogonal to the basis, and of norm 1. Where it was small, rounding left a part in the span."""
    _orthogonalise(vector, basis)
    return vector.div_(vector.norm())


def _signs(objective: Objective, generator: torch.Generator) -> Tensor:
    first = objective.parameters[0]
    bits = torch.randint(2, (objective.dimension,), generator=generator, dtype=torch.int8)
    return bits.to(first.device, first.dtype).mul_(2).sub_(1)


def _dot(x: Tensor, y: Tensor) -> float:
    return float(torch.dot(x, y))
