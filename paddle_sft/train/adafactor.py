"""Adafactor (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235), which Paddle lacks, with a given rate."""

from __future__ import annotations

from typing import Any, Callable

import paddle
from paddle import Tensor


class Adafactor(paddle.optimizer.Optimizer):
    """Second moments kept as one row and one column per matrix, updates clipped to root mean square 1.

    This is Algorithm 4 of the paper without relative step sizes, parameter scaling and momentum, the form used for
    fine-tuning: memory is rows + columns instead of 2 * rows * columns.
    """

    _row, _column, _full, _step = "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq", "step"

    def __init__(
        self,
        learning_rate: Any,
        parameters: Any,
        weight_decay: float = 0.0,
        decays: Callable[[str], bool] = bool,
        grad_clip: Any = None,
        decay_rate: float = -0.8,
        epsilon: float = 1e-30,
        clip_threshold: float = 1.0,
    ) -> None:
        super().__init__(learning_rate=learning_rate, parameters=parameters, grad_clip=grad_clip)
        self.decoupled_decay = weight_decay
        self.decays = decays  # Paddle's name of a parameter -> whether weight decay applies; by default it does
        self.decay_rate = decay_rate
        self.epsilon = epsilon
        self.clip_threshold = clip_threshold

    def _create_accumulators(self, block: Any, parameters: Any) -> None:
        for parameter in parameters:
            if parameter.name in self._already_create_accumulator:
                continue
            shape = parameter.shape
            self._add_accumulator(self._step, parameter, dtype="float32", fill_value=0.0, shape=[1])
            if len(shape) >= 2:
                self._add_accumulator(self._row, parameter, dtype="float32", fill_value=0.0, shape=shape[:-1])
                self._add_accumulator(
                    self._column, parameter, dtype="float32", fill_value=0.0, shape=shape[:-2] + shape[-1:]
                )
            else:
                self._add_accumulator(self._full, parameter, dtype="float32", fill_value=0.0, shape=shape)
            self._already_create_accumulator.add(parameter.name)

    @paddle.no_grad()
    def _append_optimize_op(self, block: Any, param_and_grad: Any) -> None:
        if isinstance(param_and_grad, dict):
            param_and_grad = self._update_param_group(param_and_grad)
        parameter, gradient = param_and_grad
        self._create_accumulators(block, [parameter])
        rate = float(self.get_lr()) * parameter.optimize_attr["learning_rate"]
        step = self._get_accumulator(self._step, parameter)
        step.set_value(step + 1.0)
        update = self._direction(parameter, gradient.astype("float32"), 1.0 - float(step) ** self.decay_rate)
        root_mean_square = float(update.square().mean().sqrt())
        update = update * (rate / max(1.0, root_mean_square / self.clip_threshold))
        value = parameter.astype("float32")
        if self.decoupled_decay and self.decays(parameter.name):
            value = value * (1.0 - self.decoupled_decay * rate)
        parameter.set_value((value - update).astype(parameter.dtype))

    def _direction(self, parameter: Tensor, gradient: Tensor, beta: float) -> Tensor:
        """Gradient over the root of its second moment, the moment factored for matrices."""
        squared = gradient.square() + self.epsilon
        if len(parameter.shape) < 2:
            moment = self._decay(self._full, parameter, squared, beta)
            return gradient * moment.rsqrt()
        row = self._decay(self._row, parameter, squared.mean(axis=-1), beta)
        column = self._decay(self._column, parameter, squared.mean(axis=-2), beta)
        row_factor = (row / row.mean(axis=-1, keepdim=True)).rsqrt().unsqueeze(-1)
        return gradient * row_factor * column.rsqrt().unsqueeze(-2)

    def _decay(self, slot: str, parameter: Tensor, value: Tensor, beta: float) -> Tensor:
        moment = self._get_accumulator(slot, parameter)
        moment.set_value(moment * beta + value * (1.0 - beta))
        return moment
