"""A perturbation: moving tensors to a perturbed point and back, and the ball that it stays in."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real  # NumPy's too
from typing import TypeVar

import torch
from torch import Tensor, nn

from flatnext.errors import InputError, warn_of_fallback

T = TypeVar("T")
Tensors = list[Tensor] | tuple[Tensor, ...]
Radius = float | Sequence[float] | Tensor  # one for all, one for each, or one on the device, read when it is needed
TINY = 1e-12  # keeps a norm of zero from being divided by; the authors of AMP and SAM add the same


def check(*, ball: str = "tensor", several: Sequence[str] = (), **settings: object) -> None:
    """Raise `InputError` for a setting that is no number, or negative or not finite, or for a ball that is unknown.

    A tensor is not looked at. `several` names the settings that may be a list, with a number for each parameter;
    `inner_iter` is a whole number.
    """
    for name, value in settings.items():
        listed = name in several and isinstance(value, Sequence) and not isinstance(value, str)
        for number in value if listed else [value]:  # type: ignore[attr-defined]
            if isinstance(number, Tensor):
                continue
            if not isinstance(number, Integral if name == "inner_iter" else Real):
                kind = "whole number" if name == "inner_iter" else "number"
                raise InputError(f"{name} is {number!r}: give a {kind}")
            if not 0 <= float(number) < math.inf:
                raise InputError(f"{name} is {number}: it must be finite and not negative")
    if ball not in ("tensor", "global"):
        raise InputError(f"ball is {ball!r}: choose tensor or global")


class Seen:
    """The gradients that are there now, so that it can be told of one later whether it is new. It keeps none alive."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        pairs = [(p, p.grad) for p in parameters]
        # A tensor of inference mode has no version.
        self._of = {id(p): (weakref.ref(g), g._version) for p, g in pairs if g is not None and not g.is_inference()}

    def same(self, parameter: Tensor) -> bool:
        """Return whether the gradient of the parameter is still in the tensor that it was in."""
        gradient = parameter.grad
        return gradient is not None and id(parameter) in self._of and self._of[id(parameter)][0]() is gradient

    def untouched(self, parameter: Tensor) -> bool:
        """Return whether it is, and nothing was written into that tensor."""
        gradient = parameter.grad
        return gradient is not None and self.same(parameter) and self._of[id(parameter)][1] == gradient._version


def checked_pass(
    closure: Callable[[], T], parameters: Sequence[Tensor]
) -> tuple[T, list[Tensor], Callable[[], object]]:
    """Call the closure; return its result, the parameters whose gradient is this pass's, and the closure for others.

    Another's is from a pass before, since when the parameter was frozen or is not used. But if no gradient was written,
    all count: torch does not see the writing of a closure that replays a CUDA graph. `InputError`: none has a gradient.

    A closure that forgets to zero would add each pass's gradient to the last. So what was made anew in this pass is
    dropped before each further one, and a gradient that stays in its memory is set to zero there.
    """
    before = Seen(parameters)
    result = closure()
    if all(p.grad is None for p in parameters):
        raise InputError("no parameter has a gradient after the closure: call loss.backward() in it")
    trained = [p for p in parameters if p.grad is not None and p.requires_grad]
    active = [p for p in trained if not before.untouched(p)] or trained
    stays = [p for p in active if before.same(p)]
    anew = [p for p in active if not before.same(p)]

    def again() -> None:
        for p in anew:
            p.grad = None
        for p in stays:
            if p.grad is not None:
                p.grad.detach().zero_()
        closure()

    return result, active, again


def require_minimizing(optimizer: torch.optim.Optimizer) -> None:
    """Raise `InputError` for an optimizer that goes up: a perturbation up the slope would then help it."""
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise InputError(
            "the optimizer has maximize=True, and a perturbation goes up too: minimise minus the objective"
        )


def warn_of_rounding(parameters: Iterable[Tensor]) -> None:
    """Say once if a parameter is in half precision, where a perturbation is lost."""
    for p in parameters:
        if p.dtype in (torch.bfloat16, torch.float16):
            kind = str(p.dtype).removeprefix("torch.")
            warn_of_fallback(
                f"weights in {kind} lose most of a perturbation to rounding: keep them in float32 and use autocast",
                once=True,
            )
            return


def off(*values: float | Sequence[float] | Tensor) -> bool:
    """Return whether one of the settings is 0, or 0 for all parameters, so that nothing is to be perturbed.

    A tensor counts as not 0: to look at its value would be to wait for its device.
    """
    numbers = [v if isinstance(v, Sequence) else [v] for v in values if not isinstance(v, Tensor)]
    return any(not any(several) for several in numbers)


@contextmanager
def restored(tensors: Tensors, buffers: Tensors = ()) -> Iterator[list[Tensor]]:
    """Put `tensors` and `buffers` back as they are now, to the bit, when the block ends; yield copies of `tensors`.

    They are copied back, since adding a perturbation and subtracting it again does not give the same bits. Each tensor
    keeps its memory and its version counter moves on. Exchanging the memory (`p.data = ...`) would save two copies, a
    few thousandths of a step, but would not be seen by those who keep a weight's address, a view or a packed form.
    Buffers that nobody can write are left alone, and come after the tensors, which nothing must keep from coming back.
    """
    buffers = [buffer for buffer in buffers if _writable(buffer)]
    saved, kept = ([torch.empty_like(t, requires_grad=False) for t in several] for several in (tensors, buffers))
    _copy(saved, tensors)
    _copy(kept, buffers)
    try:
        yield saved
    finally:
        try:
            _copy(tensors, saved)
        finally:
            torch.clear_autocast_cache()
            _copy(buffers, kept)


def _writable(buffer: Tensor) -> bool:
    """Return whether a forward pass can change the buffer in place: not a mask that was expanded, for one."""
    if nn.parameter.is_lazy(buffer) or buffer.is_inference():
        return False
    sizes = zip(buffer.shape, buffer.stride(), strict=True) if buffer.layout is torch.strided else ()
    return not any(stride == 0 and size > 1 for size, stride in sizes)


@torch.no_grad()
def _copy(targets: Tensors, sources: Tensors) -> None:
    """Copy `sources` into `targets`, all tensors of a dtype at once: a GPU then needs only a few launches.

    Those of a class of their own, such as the sharded ones of FSDP2, need not have that operation.
    """
    kinds: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        if type(target) not in (Tensor, nn.Parameter):
            target.copy_(source)
            continue
        into, out = kinds.setdefault(target.dtype, ([], []))
        into.append(target)
        out.append(source)
    for into, out in kinds.values():
        torch._foreach_copy_(into, out)


@torch.no_grad()
def move(tensors: Tensors, delta: Tensors, origin: Tensors | None = None) -> None:
    """Add `delta` to `tensors`, first putting them back to `origin` where it is given."""
    if origin is not None:
        _copy(tensors, origin)
    torch._foreach_add_(tensors, delta)
    # Autocast around the whole rule has kept low-precision copies of the weights of the previous pass.
    torch.clear_autocast_cache()


def distinct(tensors: Iterable[Tensor], **of_each: object) -> list[Tensor]:
    """Return the tensors, each once, as a weight that two layers share may be given twice.

    `InputError`: there are none, or something else than tensors; or one is given twice, and one of the settings
    `of_each` has a number for each.
    """
    given = list(tensors)
    if not given:
        raise InputError(
            "there is no tensor to perturb: give the model's parameters (a generator can be read once only)"
        )
    for other in given:
        if not isinstance(other, Tensor):
            raise InputError(f"a {type(other).__name__} is among the tensors to perturb: give model.parameters()")
    kept = list({id(tensor): tensor for tensor in given}.values())
    if len(kept) < len(given):
        for name, value in of_each.items():
            if isinstance(value, Sequence):
                raise InputError(
                    f"{name} has a number for each parameter, and one of these is given twice: give it once"
                )
    return kept


def gradients(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradients, dense; zeros where there is none."""
    pairs = [(p, p.grad) for p in tensors]
    return [torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g for p, g in pairs]


@torch.no_grad()
def norms(tensors: Tensors, ball: str) -> list[Tensor]:
    """Return the L2 norm of each tensor (ball "tensor"), or one norm of all together (ball "global").

    The tensors may be of several types, also complex, and on several devices: the norms are real, of the widest of the
    types, and on the device of the first.
    """
    real = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in tensors]
    wide = torch.float32  # at least: TINY would be 0 in half precision
    for kind in {t.dtype for t in real}:
        wide = torch.promote_types(wide, kind)
    lengths = [length.to(tensors[0].device) for length in torch._foreach_norm(real, 2.0, wide)]
    return [torch.linalg.vector_norm(torch.stack(lengths))] if ball == "global" else lengths


@torch.no_grad()
def factors(lengths: Tensors, most: float | Sequence[float], radius: Radius) -> list[Tensor]:
    """Return the factor `most` for each of vectors with these norms, or radius / norm where `most` leaves the ball.

    `most` and `radius` may be one number a vector. Numbers are passed to a GPU with the launch, so nothing waits.
    """
    inverse = torch._foreach_reciprocal(torch._foreach_add(lengths, TINY))
    edge = radius.to(inverse[0].dtype) if isinstance(radius, Tensor) else radius
    return list(torch._foreach_clamp_max(torch._foreach_mul(inverse, edge), most))


@torch.no_grad()
def scaled(vectors: Tensors, by: Tensors) -> list[Tensor]:
    """Return the vectors, each times its factor, or all times the only factor."""
    here = all(vector.device == by[0].device for vector in vectors)
    if len(by) != len(vectors) and here and by[0].dtype == vectors[0].dtype:
        return list(torch._foreach_mul(vectors, by[0]))
    each = by if len(by) == len(vectors) else [by[0]] * len(vectors)  # a list, which keeps the factor's digits
    if not here:
        each = [factor.to(vector.device) for factor, vector in zip(each, vectors, strict=True)]
    return list(torch._foreach_mul(vectors, each))


def clipped(vectors: Tensors, length: float | Sequence[float], radius: Radius, ball: str) -> list[Tensor]:
    """Return `length` times the vectors, scaled down to the norm `radius` where that is shorter.

    `length` may be one number a vector, and in ball "tensor" so may `radius`.
    """
    if ball == "global" and isinstance(length, Sequence):
        vectors, length = torch._foreach_mul(vectors, length), 1.0
    return scaled(vectors, factors(norms(vectors, ball), length, radius))
