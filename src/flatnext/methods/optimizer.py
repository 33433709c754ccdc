"""AMP in the shape of an optimizer, with the signature of its authors' class."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._pytree import tree_map

from flatnext.errors import InputError
from flatnext.methods.amp import amp
from flatnext.methods.perturbation import check

GROUP_SETTINGS = ("epsilon", "inner_lr", "inner_iter")
# Torch says that the hook may fire an extra time for a compiled module, which does no harm here.
HOOK_WARNING = "Using `torch.compile"


class AMP(torch.optim.Optimizer):
    """Adversarial model perturbation around any torch optimizer; change one import in code that uses the authors'.

    ::

        optimizer = flatnext.AMP(model.parameters(), lr=0.1, epsilon=0.5, momentum=0.9, nesterov=True)

        def closure():
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            return outputs, loss

        outputs, loss = optimizer.step(closure)

    Unlike theirs it has one state, which is the base optimizer's: `state_dict` and `load_state_dict` are complete, and
    a torch scheduler given this optimizer reaches the base. Weights come back to the bit. Batch norm counts a batch
    once: the modules that run in the first call of the closure are noted, and their buffers put back after the others.
    A closure that goes over micro-batches counts each of them once.

    Args:
        params: parameters or parameter groups; a group may have its own `lr`, `epsilon` and `inner_lr`.
        lr: learning rate of the base optimizer.
        epsilon: radius of the ball, for each parameter tensor.
        inner_lr: step length of the perturbation, in gradients.
        inner_iter: perturbation steps; 0 is plain training.
        base_optimizer: class of the optimizer that takes the step.
        buffers: what a forward pass changes, `model.buffers()`. By default it is found by watching the first pass; give
            it where that cannot be watched, in a model compiled in place (`model.compile()`) or in a compiled function.
        **kwargs: its other arguments.

    Raises:
        InputError: a radius, an inner rate or a number of steps is negative.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        epsilon: float,
        inner_lr: float = 1.0,
        inner_iter: int = 1,
        base_optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        buffers: Iterable[Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        given: list[Any] = list(params)
        if not given:
            raise InputError("params is empty: give the model's parameters (a generator can be read once only)")
        groups: list[dict[str, Any]] = (
            [dict(g) for g in given] if given and isinstance(given[0], dict) else [{"params": given}]
        )
        for group in groups:
            group.setdefault("epsilon", epsilon)
            group.setdefault("inner_lr", inner_lr)
            group["inner_iter"] = inner_iter  # one for all, kept where a state dict keeps it
            check(inner_iter=inner_iter, epsilon=group["epsilon"], inner_lr=group["inner_lr"])
        self.base_optimizer = base_optimizer(groups, lr=lr, **kwargs)  # type: ignore[call-arg]
        super().__init__(self.base_optimizer.param_groups, self.base_optimizer.defaults)
        self._share()
        self.buffers = None if buffers is None else list(buffers)

    def _share(self) -> None:
        """Use the groups and the state of the base optimizer, so that there is only one of each."""
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, or the state of a base optimizer, which keeps epsilon and the rest."""
        before = [{name: group[name] for name in GROUP_SETTINGS} for group in self.param_groups]
        self.base_optimizer.load_state_dict(state_dict)
        for group, settings in zip(self.base_optimizer.param_groups, before, strict=True):
            group |= settings | {name: group[name] for name in GROUP_SETTINGS if name in group}
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base_optimizer": self.base_optimizer, "buffers": self.buffers}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer; `epsilon` and `inner_lr` are by default those of the first group."""
        groups = self.base_optimizer.param_groups
        if any(param_group is group for group in groups):
            super().add_param_group(param_group)  # torch's constructor at work
        else:
            shared = {name: groups[0][name] for name in GROUP_SETTINGS}
            self.base_optimizer.add_param_group({**shared, **param_group})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return what the first call of the closure, at the unperturbed weights, returned, detached.

        The closure runs forward and backward; gradients are zeroed before each call. `InputError`: there is no closure,
        or one that never calls `backward`.
        """
        if closure is None:
            raise InputError("AMP needs a closure that runs forward and backward: optimizer.step(closure)")
        given = torch.enable_grad()(closure)
        buffers: list[Tensor] = list(self.buffers or [])
        first = True

        def zeroed() -> Any:
            nonlocal first
            self.zero_grad()
            with _noting_buffers(buffers) if first and self.buffers is None else nullcontext():
                first = False
                return given()

        tensors = [(p, g["epsilon"], g["inner_lr"]) for g in self.param_groups for p in g["params"]]
        result = amp(
            zeroed,
            [p for p, _, _ in tensors],
            buffers,  # filled by the first call; a rule reads them after it
            epsilon=[e for _, e, _ in tensors],
            inner_lr=[r for _, _, r in tensors],
            inner_iter=self.param_groups[0]["inner_iter"],
        )
        self.base_optimizer.step()
        return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, result)


@contextmanager
def _noting_buffers(buffers: list[Tensor]) -> Iterator[None]:
    """Add the buffers of all modules that run forward in training mode inside the block to `buffers`, each once."""
    seen: set[int] = set()

    def note(module: nn.Module, _: Any) -> None:
        if module.training:
            # Inside a compiled module no hook runs: its own call stands for all of it.
            for buffer in module.buffers(recurse=hasattr(module, "_orig_mod")):
                if id(buffer) not in seen:
                    seen.add(id(buffer))
                    buffers.append(buffer)

    if not any(f[1] is not None and f[1].pattern == HOOK_WARNING for f in warnings.filters):
        warnings.filterwarnings("ignore", message=HOOK_WARNING)
    handle = register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()
