"""`sharding` with `offload`: the optimizer's state in the machine's memory, where the update is computed too
(ZeRO-Offload: Ren et al. 2021, https://arxiv.org/abs/2101.06840).

The device keeps weights and gradients. A step copies the gradients (and float32 weights) to the host, and the new
weights back: 12 bytes a float32 number over the bus, for 8 bytes of the device's memory.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Container, Dict, Iterator, List, Tuple

import paddle
from paddle import Tensor, nn


@contextmanager
def on_host() -> Iterator[None]:
    """What is made and computed within is on the CPU, whatever the device of the run."""
    device = paddle.get_device()
    paddle.set_device("cpu")
    try:
        yield
    finally:
        paddle.set_device(device)


class HostOptimizer:
    """An optimizer over copies of parameters in host memory, with the methods that a run calls.

    Weights in half precision have their float32 values here only, as an optimizer with multi_precision has them.

    Args:
        parameters: all that are trained, by name.
        mine: names of those that this rank updates.
        build: (name -> parameter) -> the optimizer over them.
    """

    def __init__(
        self, parameters: Dict[str, Tensor], mine: Container[str], build: Callable[[Dict[str, Tensor]], Any]
    ) -> None:
        self._parameters = parameters
        with on_host():
            copies = {name: _copy_of(parameter) for name, parameter in parameters.items() if name in mine}
            self._optimizer = build(copies)
        self._pairs: List[Tuple[Tensor, Tensor]] = [(parameters[name], copy) for name, copy in copies.items()]
        self._has_masters = False

    @paddle.no_grad()
    def step(self) -> None:
        changed = [(parameter, copy) for parameter, copy in self._pairs if parameter.grad is not None]
        for parameter, copy in changed:
            copy.grad = parameter.grad.cpu().astype("float32")
            if parameter.dtype == copy.dtype or not self._has_masters:
                copy.set_value(parameter.cpu().astype("float32"))  # an adapter's method may have changed it
        self._has_masters = True
        with on_host():
            self._optimizer.step()
            self._optimizer.clear_grad()
        for parameter, copy in changed:
            parameter.set_value(copy.astype(parameter.dtype))  # copies to the parameter's device

    def clear_grad(self) -> None:
        for parameter in self._parameters.values():
            parameter.clear_gradient()

    def get_lr(self) -> float:
        return self._optimizer.get_lr()

    def state_dict(self) -> Dict[str, Any]:
        """As Paddle's optimizers name it."""
        state = self._optimizer.state_dict()
        halves = [(parameter, copy) for parameter, copy in self._pairs if parameter.dtype != copy.dtype]
        if halves and self._has_masters:
            state["master_weights"] = {parameter.name: copy for parameter, copy in halves}
        return state

    @paddle.no_grad()
    def set_state_dict(self, state: Dict[str, Any]) -> None:
        masters = state.pop("master_weights", {})
        for parameter, copy in self._pairs:
            if parameter.name in masters:
                copy.set_value(masters[parameter.name].cpu())
        self._has_masters = bool(masters)
        self._optimizer.set_state_dict(state)


def _copy_of(parameter: Tensor) -> Tensor:
    nothing = nn.initializer.Constant(0.0)
    copy = nn.Layer().create_parameter(parameter.shape, dtype="float32", default_initializer=nothing)
    copy.name = parameter.name  # its state is saved under this name
    copy.optimize_attr = parameter.optimize_attr
    return copy
