"""A rule and an ordinary torch optimizer in the shape of one optimizer, with one state."""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._pytree import tree_map

from flatnext.errors import InputError, warn_of_fallback
from flatnext.methods.perturbation import Seen, check, gradients, require_minimizing, warn_of_rounding

# Torch says that the hook may fire an extra time for a compiled module, which does no harm here.
HOOK_WARNING = "Using `torch.compile"


class PerturbedOptimizer(torch.optim.Optimizer):
    """The common part of `AMP`, `SAM` and `ASAM`: a base optimizer that takes the step with the gradient of a rule.

    There is one state, the base optimizer's: `state_dict` and `load_state_dict` are complete, and a torch scheduler
    given this optimizer reaches the base. Weights come back to the bit. Batch norm counts a batch once: the modules
    that run in the first call of the closure, in its thread, are noted, and their buffers put back after the others,
    whether these changed them in place or assigned new ones. A closure that goes over micro-batches counts each once.
    """

    name: ClassVar[str]
    of_group: ClassVar[tuple[str, ...]] = ()
    """The rule's settings that a parameter group may have its own of."""
    of_all: ClassVar[tuple[str, ...]] = ()
    """Those that are one for all groups. They too are kept in each, where a state dict keeps them."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        settings: Mapping[str, float],
        base_optimizer: type[torch.optim.Optimizer],
        buffers: nn.Module | Iterable[Tensor] | None,
        **kwargs: Any,
    ) -> None:
        given: list[Any] = list(params)
        if not given:
            raise InputError("params is empty: give the model's parameters (a generator can be read once only)")
        groups: list[dict[str, Any]] = [dict(g) for g in given] if isinstance(given[0], dict) else [{"params": given}]
        for group in groups:
            for name, value in settings.items():
                group.setdefault(name, value)
            check(**{name: group[name] for name in settings})
        self.base_optimizer = base_optimizer(groups, **kwargs)
        if isinstance(self.base_optimizer, PerturbedOptimizer):
            raise InputError(
                f"base_optimizer is {self.base_optimizer.name}: give an ordinary one, such as SGD or AdamW"
            )
        for name in settings.keys() & self.base_optimizer.defaults.keys():  # both would be kept under one name
            raise InputError(
                f"{type(self.base_optimizer).__name__} has a setting {name} of its own: use the rule "
                f"flatnext.{self.name.lower()} beside it"
            )
        self.base_optimizer.defaults |= {name: settings[name] for name in self.of_group}  # of groups that are added
        try:
            inspect.signature(self.base_optimizer.step).bind()
        except TypeError as error:
            raise InputError(
                f"base_optimizer is {type(self.base_optimizer).__name__}, whose step runs the closure itself: give one "
                "that takes a step with the gradient that is there, such as SGD or AdamW"
            ) from error
        super().__init__(self.base_optimizer.param_groups, self.base_optimizer.defaults)
        self._share()
        self._left = Seen(self._groups())  # what gradients are there that no user has accumulated since
        self.buffers = buffers if buffers is None or isinstance(buffers, nn.Module) else list(buffers)
        self._place = self._place_now()  # of the model whose buffers these are
        for name in self.of_all:
            self.setting(name)
        warn_of_rounding(self._groups())

    def _share(self) -> None:
        """Use the groups and the state of the base optimizer, so that there is only one of each."""
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state

    def setting(self, name: str) -> Any:
        """Return a setting that is one for all groups. `InputError`: they have several."""
        values = [group[name] for group in self.param_groups]
        if any(value != values[0] for value in values):
            raise InputError(f"{name} is {values}: it is one for all groups of parameters: give each the same")
        return values[0]

    def each(self, name: str) -> list[Any]:
        """Return a setting of the groups for each of their parameters, as `_groups` has them."""
        return [group[name] for group in self._groups().values()]

    def _groups(self) -> dict[Tensor, dict[str, Any]]:
        """Return the group of each parameter; one that is given twice counts once."""
        return {p: group for group in self.param_groups for p in group["params"]}

    def _place_now(self) -> tuple[torch.device, torch.dtype]:
        """Return where the first parameter is, and of which type."""
        first = next(iter(self._groups()))
        return first.device, first.dtype

    def state_dict(self) -> dict[str, Any]:
        """Return that of the base optimizer, which may keep more than torch's own, or keep its state elsewhere."""
        for before_saving in self._optimizer_state_dict_pre_hooks.values():
            before_saving(self)
        state_dict = self.base_optimizer.state_dict()
        for after_saving in self._optimizer_state_dict_post_hooks.values():
            changed = after_saving(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave, or the state of a base optimizer, which keeps the rule's settings."""
        state_dict = state_dict.copy()
        for before_loading in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before_loading(self, state_dict)
            state_dict = state_dict if changed is None else changed
        names = (*self.of_group, *self.of_all)
        before = [{name: group[name] for name in names} for group in self.param_groups]
        self.base_optimizer.load_state_dict(state_dict)
        for group, settings in zip(self.base_optimizer.param_groups, before, strict=True):
            group |= settings | {name: group[name] for name in names if name in group}
        self._share()
        for after_loading in self._optimizer_load_state_dict_post_hooks.values():
            after_loading(self)

    def __getstate__(self) -> dict[str, Any]:
        own = {"base_optimizer": self.base_optimizer, "buffers": self.buffers, "_place": self._place}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._left = Seen(self._groups())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer; it has by default the constructor's settings of the rule.

        Those that are one for all groups it has from the first.
        """
        groups = self.base_optimizer.param_groups
        if any(param_group is group for group in groups):
            super().add_param_group(param_group)  # torch's constructor at work
        else:
            shared = {name: groups[0][name] for name in self.of_all}
            self.base_optimizer.add_param_group({**shared, **param_group})
            self._left = Seen(self._groups())

    def compute(self, closure: Callable[[], Any], parameters: list[Tensor], buffers: list[Tensor]) -> Any:
        """Leave the gradient in `p.grad` by the rule, as `flatnext.methods.Rule` says."""
        raise NotImplementedError

    def first_step(self, *_: Any, **__: Any) -> NoReturn:
        """Answer what is one step here: `InputError`."""
        raise InputError(
            f"{self.name} takes all its passes in one step: optimizer.step(closure); closure runs forward and backward"
        )

    second_step = ascent_step = descent_step = first_step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return what the first call of the closure, at the unperturbed weights, returned, detached.

        The closure runs forward and backward. The gradients of this optimizer's own parameters are zeroed before each
        call; those of others the closure has to zero. `InputError`: there is no closure, or one that never calls
        `backward`; or there are gradients that were made since the last step, which would be dropped; or the model was
        moved after its buffers were given.
        """
        if closure is None:
            if self._makes_state():
                return self.base_optimizer.step()
            raise InputError(
                f"{self.name} needs a closure that runs forward and backward: optimizer.step(closure); a GradScaler "
                "gives none, and would scale the perturbation: use bf16, which needs no scaler"
            )
        require_minimizing(self)
        made = [p for p in self._groups() if p.grad is not None and not self._left.untouched(p)]
        if any(bool(g.any()) for g in gradients(made)):  # zeros are those of zero_grad(set_to_none=False)
            raise InputError(
                "gradients were accumulated or changed before step(closure), which drops them: run all micro-batches "
                "in the closure, or call zero_grad() before it if they are not meant for this step"
            )
        given = torch.enable_grad()(closure)
        noted = self._noted()
        first, unseen = True, False

        def zeroed() -> Any:
            nonlocal first, unseen
            self.zero_grad()
            if not first:
                if unseen:
                    warn_of_fallback(
                        f"{self.name} did not see all modules run in the closure, perhaps as one is compiled: batch "
                        "norm may count every pass: give buffers=model, or buffers=() if there are none",
                        once=True,
                    )
                return given()
            first = False
            with noted.watching() if self.buffers is None else nullcontext():
                result = detached(given())  # now: the closure may write the next pass into the same object
            noted.read()
            unseen = self.buffers is None and not noted.has_all(p for p in self._groups() if p.grad is not None)
            return result

        try:
            result = self.compute(zeroed, list(self._groups()), noted.tensors)
            self.base_optimizer.step()
        finally:
            noted.put_back()
            self._left = Seen(self._groups())
        return result

    def _noted(self) -> _Buffers:
        """Return the buffers that a step puts back, as far as they were given."""
        noted = _Buffers()
        if isinstance(self.buffers, nn.Module):
            noted.add(self.buffers)
        elif self.buffers:
            if self._place_now() != self._place:
                raise InputError(
                    "the model was moved, or its type changed, after its buffers were given, and has others now: give "
                    f"the model in their place: flatnext.{self.name}(..., buffers=model)"
                )
            noted.tensors += self.buffers
        return noted

    def _makes_state(self) -> bool:
        """Whether a step without a closure moves nothing and only makes the base optimizer's state.

        `torch.distributed.checkpoint` takes such a step with a new optimizer: at a rate of 0, with gradients of zeros.
        """
        gradients = [p.grad for p in self._groups() if p.grad is not None]
        still = all(float(group["lr"]) == 0 for group in self.param_groups)
        return not self.state and still and bool(gradients) and not any(bool(g.any()) for g in gradients)


def detached(result: Any) -> Any:
    """Return the result of a closure without graphs; lists, tuples and dicts are copies."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, result)


def in_either_order(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that also takes (params, base_optimizer, rho, lr=...), and explains what it cannot take."""
    others = ("base_optimizer", "buffers", "kwargs")
    of_rule = [name for name in tuple(inspect.signature(init).parameters)[3:] if name not in others]
    places = [*of_rule, "adaptive"]  # as in the SAM that most programs use

    @functools.wraps(init)
    def either(self: PerturbedOptimizer, params: Any, *args: Any, **settings: Any) -> None:
        call = f"flatnext.{self.name}(model.parameters(), lr=0.1, base_optimizer=torch.optim.SGD, ...)"
        if isinstance(params, (nn.Module, torch.optim.Optimizer)):
            raise InputError(f"params is a {type(params).__name__}: give the model's parameters: {call}")
        if args and isinstance(args[0], type):
            if len(args) > 1 + len(places):
                raise InputError(f"{args[1 + len(places)]!r} is one argument too many: give settings by name: {call}")
            settings |= {"base_optimizer": args[0]} | dict(zip(places, args[1:], strict=False))
            args = ()
        if any(isinstance(given, torch.optim.Optimizer) for given in (*args, *settings.values())):
            raise InputError(f"base_optimizer is an optimizer that was made already: give its class: {call}")
        if settings.pop("adaptive", False):
            raise InputError("adaptive SAM is a class of its own: flatnext.ASAM(model.parameters(), lr=0.1, rho=2.0)")
        if not args and "lr" not in settings:
            raise InputError(f"lr is missing: {call}")
        init(self, params, *args, **settings)

    return either


class _Buffers:
    """The buffers of the modules that run in the first pass of a step, each once, and where they are kept.

    `tensors` are for the rule, which puts back what the other passes change in them.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._modules: dict[nn.Module, None] = {}
        self._parameters: set[int] = set()
        self._places: list[tuple[nn.Module, str, Tensor]] = []

    def add(self, module: nn.Module) -> None:
        """Add the buffers of a module and of all inside it, whose own calls may be compiled, and not be seen."""
        self._modules |= dict.fromkeys(module.modules())
        self._parameters |= {id(parameter) for parameter in module.parameters()}
        self._add(module.buffers())

    def has_all(self, parameters: Iterable[Tensor]) -> bool:
        """Return whether each of some parameters belongs to a module that was seen to run."""
        return all(id(parameter) in self._parameters for parameter in parameters)

    def _add(self, tensors: Iterable[Tensor]) -> None:
        tensors = list(tensors)
        if any(is_functorch_wrapped_tensor(tensor) for tensor in tensors):
            raise InputError("a model runs inside torch.func: give buffers=[the stacked buffers]")
        known = {id(tensor) for tensor in self.tensors}
        self.tensors += [tensor for tensor in tensors if id(tensor) not in known]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Add all modules that run forward inside the block in this thread: another may train another model."""
        if not any(f[1] is not None and f[1].pattern == HOOK_WARNING for f in warnings.filters):
            warnings.filterwarnings("ignore", message=HOOK_WARNING)
        thread = threading.get_ident()

        def needs(module: nn.Module) -> bool:
            """Say whether the module is not noted yet: the kernels run without the call of a layer (`flatnext.ops`)."""
            compiled = torch.compiler.is_compiling()  # then the thread is not asked, which would break the graph
            return not compiled and threading.get_ident() == thread and module not in self._modules

        def note(module: nn.Module, _: Any) -> None:
            if needs(module):
                self.add(module)

        note.needs = needs  # type: ignore[attr-defined]
        handle = register_module_forward_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()

    def read(self) -> None:
        """Note the buffers as the first pass left them: it may have assigned new ones."""
        for module in self._modules:
            self._parameters |= {id(parameter) for parameter in module.parameters(recurse=False)}
            self._places += [(module, name, tensor) for name, tensor in module.named_buffers(recurse=False)]
        self._add({id(tensor): tensor for _, _, tensor in self._places}.values())

    def put_back(self) -> None:
        """Put back the buffers in whose place other tensors are by now; their values are the rule's."""
        for module, name, tensor in self._places:
            if getattr(module, name, None) is not tensor:
                setattr(module, name, tensor)
