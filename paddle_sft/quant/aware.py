"""Quantisation-aware training: linear layers compute with rounded weights and inputs, and gradients pass the rounding
as if it were not there (Jacob et al. 2017, https://arxiv.org/abs/1712.05877, section 3). The rounding is done by
PaddleSlim's and Paddle's quanters."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional, Tuple

import numpy as np
import paddle
from paddle import Tensor, _C_ops, nn
from paddle.nn import functional as F
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver
from paddleslim.quant.quanters.channel_wise_abs_max import FakeQuanterChannelWiseAbsMaxObserverLayer

from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import CheckpointError

QAT_TYPES: Dict[str, Tuple[int, bool]] = {
    "a8w8": (8, True),
    "a8w4": (4, True),
    "weight_only_int8": (8, False),
    "weight_only_int4": (4, False),
}
"""Name -> (bits of weights, whether inputs get 8 bits)."""
ACTIVATIONS = "activation_scales.json"
"""Beside a model's weights: what 8-bit inputs of its linear layers hold."""
_MOVING_RATE = 0.9
"""Of an input's largest magnitude, from batch to batch: the mean of about the last 10."""
_TIES_AWAY_FROM_ZERO = 1
Mean = Callable[[Tensor], Tensor]
"""A tensor -> its mean over the ranks that see different samples."""


class Awareness:
    """The quanters of a model's linear layers.

    Args:
        linears: path -> nn.Linear; each computes with rounded numbers from now on. Parameters and their names stay.
        kind: a name of QAT_TYPES.
    """

    def __init__(self, linears: Mapping[str, nn.Layer], kind: str) -> None:
        bits, with_inputs = choose("qat", kind, QAT_TYPES)
        self.kind = kind
        self._forwards = {path: _RoundedForward(layer, bits, with_inputs) for path, layer in linears.items()}
        for path, layer in linears.items():
            layer.forward = self._forwards[path]
        self._at_last_step = self._moving()

    def settle(self, mean: Optional[Mean]) -> None:
        """A step is done: what all ranks saw of the inputs is what each goes on with.

        Args:
            mean: None for a process that is alone.
        """
        moving = self._moving()
        if mean is not None and moving.size:
            self._put_moving(mean(moving))
            moving = self._moving()
        self._at_last_step = moving

    def go_back(self) -> None:
        """The step is not applied: forget what it showed of the inputs."""
        self._put_moving(self._at_last_step)

    def _moving(self) -> Tensor:
        """Sums and weights of the moving averages of all inputs, one behind the other [2 x layers with scales]."""
        found = [one for forward in self._forwards.values() for one in forward.moving()]
        return paddle.concat([one.detach() for one in found]) if found else paddle.zeros([0])

    @paddle.no_grad()
    def _put_moving(self, values: Tensor) -> None:
        forwards = [forward for forward in self._forwards.values() if forward.inputs is not None]
        for forward, (total, weight) in zip(forwards, values.reshape([-1, 2])):
            for tensor, value in zip((*forward.moving(), forward.inputs.scales()), (total, weight, total / weight)):
                tensor.set_value(value.reshape([1]))

    def arrays(self) -> Dict[str, np.ndarray]:
        """path.quanter.name -> what a quanter remembers: scales and moving averages, for a resumed run."""
        return {name: value.numpy() for name, value in self._tensors().items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """
        Raises:
            CheckpointError: arrays of other layers than these.
        """
        tensors = self._tensors()
        if tensors.keys() != arrays.keys():
            raise CheckpointError(f"the checkpoint was not made by a run with qat {self.kind} on the same layers")
        for name, value in tensors.items():
            value.set_value(paddle.to_tensor(np.array(arrays[name])))
        self._at_last_step = self._moving()

    def input_scales(self) -> Dict[str, float]:
        """Path -> largest magnitude that 8 bits of its input hold; empty where inputs are not rounded."""
        inputs = {path: forward.inputs for path, forward in self._forwards.items() if forward.inputs is not None}
        return {path: float(quanter.scales()) for path, quanter in inputs.items()}

    def _tensors(self) -> Dict[str, Tensor]:
        return {
            f"{path}.{part}.{name}": value
            for path, forward in self._forwards.items()
            for part, quanter in (("weights", forward.weights), ("inputs", forward.inputs))
            if quanter is not None
            for name, value in quanter.state_dict().items()
        }


class _WeightQuanter(FakeQuanterChannelWiseAbsMaxObserverLayer):
    """PaddleSlim's, without its wait for all ranks in every pass (paddleslim 2.6.0): ranks don't make the same number
    of passes, and what it takes the maximum of is computed anew from weights that are the same on all ranks."""

    def dynamic_forward(self, weight: Tensor) -> Tensor:
        rounded, scales = _C_ops.fake_channel_wise_quantize_dequantize_abs_max(
            weight, self._bit_length, _TIES_AWAY_FROM_ZERO, self._quant_axis
        )
        self._scale.set_value(scales)
        return rounded


class _RoundedForward:
    """x W + b with both rounded. The quanters are no sublayers, so that the model's parameters stay what they are."""

    def __init__(self, layer: nn.Layer, bits: int, with_inputs: bool) -> None:
        self._layer = layer
        self.weights: Any = _WeightQuanter(layer, bit_length=bits)
        self.inputs: Optional[Any] = None
        if with_inputs:
            self.inputs = FakeQuanterWithAbsMaxObserver(moving_rate=_MOVING_RATE)._instance(layer)

    def moving(self) -> Tuple[Tensor, ...]:
        """Sum and weight of the moving average of the input's largest magnitude; their quotient is its scale."""
        return () if self.inputs is None else (self.inputs._accum, self.inputs._state)

    def __call__(self, x: Tensor) -> Tensor:
        if self.inputs is not None:
            # before the first training batch there is no scale to evaluate with: what comes is the first to be seen
            self.inputs.training = self._layer.training or float(self.inputs._state) == 1.0
            x = self.inputs(x)
        return F.linear(x, self.weights(self._layer.weight), self._layer.bias)


def activations_file(scales: Dict[str, float]) -> Dict[str, Any]:
    """Content of ACTIVATIONS."""
    return {
        "about": "the input of each linear layer is rounded to steps of scale / 127 between -128 and 127",
        "scales": scales,
    }
