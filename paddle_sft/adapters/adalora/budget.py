"""AdaLoRA's schedule: which singular values of which layers are worth their place."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
import paddle
from paddle import Tensor

from paddle_sft.adapters.adalora.layer import NAMES, AdaLoRADelta
from paddle_sft.adapters.base import ModelFacts, ModelUpdate
from paddle_sft.models.split import part_of
from paddle_sft.parallel.groups import gather_objects

_KEEPS = "keeps"


class AdaLoRABudget(ModelUpdate):
    """Keeps P and Q near orthogonal, and cuts singular values of all layers down to the budget (algorithm 1).

    The importance of a singular value is s(e_i) + mean s(A[:, i]) + mean s(B[i]); s of a number is the average of its
    sensitivity |w * gradient| times the average of that one's uncertainty (equations 8 to 10).
    """

    starts_at_zero = True
    splits = AdaLoRADelta.splits

    def __init__(self, facts: ModelFacts, config: Any, dtype: str) -> None:
        super().__init__(facts, config, dtype)
        self.config = config
        self.layers: List[AdaLoRADelta] = []
        self._stages: Any = None
        """The ranks that hold the other layers."""

    def share(self, update: AdaLoRADelta) -> None:
        self.layers.append(update)

    def split(self, share: Any) -> None:
        self._stages = share.pipeline_group

    @staticmethod
    def count(facts: ModelFacts, config: Any) -> int:
        return 0

    @paddle.no_grad()
    def before_update(self, step: int, num_steps: int) -> bool:
        """Add the gradient of orth_weight * the mean of |A' A - I| and |B B' - I| (Frobenius) over all of them."""
        self.config.phases(num_steps)
        weight = self.config.adalora_orth_weight / (2 * self._num_layers)
        for layer in self.layers:
            for name, columns in (("lora_a", layer.lora_a), ("lora_b", layer.lora_b.T)):
                away = _away_from_orthogonal(columns, layer.whole_sum(name, columns.T @ columns))
                getattr(layer, name).grad.add_(weight * (away if name == "lora_a" else away.T))
        return True

    @property
    def _num_layers(self) -> int:
        """Of the whole model."""
        return len(self.config.target_modules)

    @paddle.no_grad()
    def after_update(self, step: int, num_steps: int) -> None:
        """Average the importances, and cut where the schedule says so. Numbers that are cut may come back until the
        last cut, and stay zero after it."""
        first, last = self.config.phases(num_steps)
        done = step + 1
        if done > last:
            for layer in self.layers:
                layer.lora_e.set_value(layer.lora_e * layer.keeps[_KEEPS])
            return
        for layer in self.layers:
            if done < last or not layer.averages:
                self._follow(layer)
        if done == last or (done > first and done % self.config.adalora_delta_t == 0):
            self._cut(int(self.config.budget(done, num_steps) * self._num_layers), is_last=done == last)

    def _follow(self, layer: AdaLoRADelta) -> None:
        beta1, beta2 = self.config.adalora_beta1, self.config.adalora_beta2
        for name in NAMES:
            parameter = getattr(layer, name)
            sensitivity = (parameter * parameter.grad).abs().astype("float32")
            zero = paddle.zeros_like(sensitivity)
            mean = beta1 * layer.averages.get(f"{name}.sensitivity", zero) + (1 - beta1) * sensitivity
            away = (sensitivity - mean).abs()
            layer.averages[f"{name}.sensitivity"] = mean
            layer.averages[f"{name}.uncertainty"] = (
                beta2 * layer.averages.get(f"{name}.uncertainty", zero) + (1 - beta2) * away
            )
            for kind in ("sensitivity", "uncertainty"):
                layer.averages[f"{name}.{kind}"].part = part_of(parameter)

    def _cut(self, num_left: int, is_last: bool) -> None:
        """Zero all but the `num_left` most important singular values over all layers."""
        here = {layer.number: _importance(layer) for layer in self.layers}
        known = {number: score for stage in gather_objects(here, self._stages) for number, score in stage.items()}
        scores = np.stack([known[number] for number in sorted(known)])
        keeps = np.ones(scores.size, dtype=np.float32)
        keeps[np.argsort(scores, axis=None, kind="stable")[: scores.size - num_left]] = 0.0
        of_layer = dict(zip(sorted(known), keeps.reshape(scores.shape)))
        for layer in self.layers:
            kept = paddle.to_tensor(of_layer[layer.number]).astype(layer.lora_e.dtype)
            layer.lora_e.set_value(layer.lora_e * kept)
            if is_last:
                layer.keeps, layer.averages = {_KEEPS: kept}, {}

    def training_state(self) -> Dict[str, Tensor]:
        found = {}
        for layer in self.layers:
            known = {**layer.averages, **layer.keeps}
            found.update({f"{layer.number}/{name}": value for name, value in known.items()})
        return found

    def restore_training(self, state: Dict[str, Tensor]) -> None:
        layers = {layer.number: layer for layer in self.layers}
        for layer in self.layers:
            layer.averages, layer.keeps = {}, {}
        for key, value in state.items():
            number, name = key.split("/", 1)
            layer = layers.get(int(number))
            if layer is None:  # on another stage
                continue
            part = None if name == _KEEPS else part_of(getattr(layer, name.split(".", 1)[0]))
            value = value if part is None else paddle.to_tensor(part.take(value.numpy()))
            value.part = part
            (layer.keeps if name == _KEEPS else layer.averages)[name] = value


def _away_from_orthogonal(matrix: Tensor, squares: Tensor) -> Tensor:
    """The gradient of |M' M - I| (Frobenius) by M [n, r], or by some rows of it; zero where M is orthogonal.

    Args:
        squares: M' M.
    """
    away = squares - paddle.eye(matrix.shape[1], dtype=matrix.dtype)
    return 2.0 * (matrix @ away) / away.norm().clip(min=1e-12)


def _importance(layer: AdaLoRADelta) -> np.ndarray:
    """[init_r]"""
    a, e, b = (layer.averages[f"{name}.sensitivity"] * layer.averages[f"{name}.uncertainty"] for name in NAMES)
    of_a = layer.whole_sum("lora_a", a.sum(axis=0)) / layer.in_features
    return (e + of_a + layer.whole_sum("lora_b", b.sum(axis=1)) / layer.out_features).numpy()
