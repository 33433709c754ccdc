"""AMP, SAM and ASAM in the shape of an optimizer: AMP with the signature of its authors' class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from flatnext.methods.amp import amp
from flatnext.methods.perturbed_optimizer import PerturbedOptimizer, in_either_order
from flatnext.methods.sam import asam, sam


class AMP(PerturbedOptimizer):
    """Adversarial model perturbation around a torch optimizer; change one import in code that uses the authors'.

    ::

        optimizer = flatnext.AMP(model.parameters(), lr=0.1, epsilon=0.5, momentum=0.9, nesterov=True)

        def closure():
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            return outputs, loss

        outputs, loss = optimizer.step(closure)

    The gradients of its parameters are zeroed before each call; those of others the closure has to zero. So all
    micro-batches of a step are run in the closure: gradients that are there before it are an `InputError`.

    Unlike theirs it has one state, which is the base optimizer's: `state_dict` and `load_state_dict` are complete, and
    a torch scheduler given this optimizer reaches the base. Weights come back to the bit, and batch norm counts a batch
    once (a closure that goes over micro-batches counts each of them once).

    Args:
        params: parameters or parameter groups; a group may have its own `lr`, `epsilon` and `inner_lr`.
        lr: learning rate of the base optimizer.
        epsilon: radius of the ball, for each parameter tensor.
        inner_lr: step length of the perturbation, in gradients.
        inner_iter: perturbation steps; 0 is plain training.
        base_optimizer: class of the optimizer that takes the step: any whose step can do without a closure.
        buffers: the model, whose buffers a forward pass changes. By default they are found by watching the first pass;
            give it where that cannot be watched, in a model compiled in place (`model.compile()`) or in a compiled
            function, and give () where there are none. `model.buffers()` does as well, if the model is not moved
            afterwards and changes them in place.
        **kwargs: its other arguments.

    Raises:
        InputError: a radius, an inner rate or a number of steps is negative, or the base optimizer needs a closure.
    """

    name = "AMP"
    of_group = ("epsilon", "inner_lr")
    of_all = ("inner_iter",)

    @in_either_order
    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        epsilon: float,
        inner_lr: float = 1.0,
        inner_iter: int = 1,
        base_optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        buffers: nn.Module | Iterable[Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        settings = {"epsilon": epsilon, "inner_lr": inner_lr, "inner_iter": inner_iter}
        super().__init__(params, settings, base_optimizer, buffers, lr=lr, **kwargs)

    def compute(self, closure: Callable[[], Any], parameters: list[Tensor], buffers: list[Tensor]) -> Any:
        """Leave AMP's gradient in `p.grad`."""
        return amp(
            closure,
            parameters,
            buffers,
            epsilon=self.each("epsilon"),
            inner_lr=self.each("inner_lr"),
            inner_iter=self.setting("inner_iter"),
        )


class SAM(PerturbedOptimizer):
    """Sharpness-aware minimization around a torch optimizer. It is used as `AMP` is, and keeps the same promises.

    ::

        optimizer = flatnext.SAM(model.parameters(), lr=0.1, momentum=0.9)

        def closure():
            loss = criterion(model(inputs), targets)
            loss.backward()
            return loss

        loss = optimizer.step(closure)

    Args:
        params: parameters or parameter groups; a group may have its own `lr`. The class of the base optimizer may
            follow, as in other implementations: `SAM(params, torch.optim.SGD, lr=0.1, momentum=0.9)`.
        lr: learning rate of the base optimizer.
        rho: length of the perturbation, over all parameters together; 0 is plain training.
        base_optimizer: class of the optimizer that takes the step: any whose step can do without a closure.
        buffers: as for `AMP`.
        **kwargs: its other arguments.

    Raises:
        InputError: rho is negative, or differs between groups; the base optimizer needs a closure.
    """

    name = "SAM"
    of_all = ("rho",)

    @in_either_order
    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        rho: float = 0.05,
        base_optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        buffers: nn.Module | Iterable[Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(params, {"rho": rho}, base_optimizer, buffers, lr=lr, **kwargs)

    def compute(self, closure: Callable[[], Any], parameters: list[Tensor], buffers: list[Tensor]) -> Any:
        """Leave SAM's gradient in `p.grad`."""
        return sam(closure, parameters, buffers, rho=self.setting("rho"))


class ASAM(PerturbedOptimizer):
    """Adaptive sharpness-aware minimization around a torch optimizer; see `SAM`.

    Args:
        params: parameters or parameter groups; a group may have its own `lr`.
        lr: learning rate of the base optimizer.
        rho: length of the perturbation, relative to the size of each weight; 0 is plain training.
        eta: added to the size of each weight.
        base_optimizer: class of the optimizer that takes the step: any whose step can do without a closure.
        buffers: as for `AMP`.
        **kwargs: its other arguments.

    Raises:
        InputError: rho or eta is negative, or differs between groups; the base optimizer needs a closure.
    """

    name = "ASAM"
    of_all = ("rho", "eta")

    @in_either_order
    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        rho: float = 2.0,
        eta: float = 0.01,
        base_optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        buffers: nn.Module | Iterable[Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(params, {"rho": rho, "eta": eta}, base_optimizer, buffers, lr=lr, **kwargs)

    def compute(self, closure: Callable[[], Any], parameters: list[Tensor], buffers: list[Tensor]) -> Any:
        """Leave ASAM's gradient in `p.grad`."""
        return asam(closure, parameters, buffers, rho=self.setting("rho"), eta=self.setting("eta"))
