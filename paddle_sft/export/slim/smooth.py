"""SmoothQuant (Xiao et al. 2022, https://arxiv.org/abs/2211.10438) and AWQ's scales (Lin et al. 2023,
https://arxiv.org/abs/2306.00978) by PaddleSlim's implementation: input channels are divided by s in the norm before
some linear layers, and multiplied by s in their weights. The model computes the same; its weights are easier to round.

Three faults of paddleslim 2.6.0 are worked round here:
- `Smooth.update_weight` casts to float16, which has no product and no power on a CPU, and takes the scales of the last
  layer behind a norm only. The search that is given to it sees all layers behind a norm, in float32.
- It tells the norm before attention from the one before the MLP by whether the number in its name is even, which is
  chance (a model has an odd number of norms), and takes norms of heads for norms of layers. Names are lent for it.
"""

from __future__ import annotations

import io
from contextlib import contextmanager, redirect_stdout
from typing import Any, Dict, Iterator, List, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleslim.quant.advanced import AWQSearch, Smooth

from paddle_sft.core.errors import ModelError
from paddle_sft.export.slim.walk import decoder_layers, run_rows
from paddle_sft.models.head import hidden_states
from paddle_sft.models.linears import find_linears

LARGEST_CHANGE = 1e-3
"""Of a hidden state, relative to the largest: what rounding may do to a model that should compute the same."""


def smooth(model: nn.Layer, rows: Sequence[np.ndarray], method: str, bits: int, block: int, alpha: float = 0.5) -> int:
    """Move scales between norms and linear layers, in place.

    Args:
        rows: token ids [T] of the calibration samples.
        method: smoothquant (s = max|x|^alpha / max|w|^(1 - alpha)) or awq (s = mean|x|^r, r searched on a grid).
        bits, block: of the weights' quantisation that awq's search simulates.

    Returns:
        the number of norms that were scaled.

    Raises:
        ModelError: no norm with linear layers behind it was found, or the model doesn't compute the same afterwards.
    """
    if any("expert" in path for path in find_linears(model)):
        raise ModelError(
            f"method {method} can't scale what a router and experts read together ({type(model).__name__}); use method "
            "gptq or ptq"
        )
    before = _states(model, rows[0])
    with _names(model, rows[0]), redirect_stdout(io.StringIO()):
        one = Smooth(model, _kind(model), alpha=alpha, smooth_method=method)
        try:
            with paddle.no_grad():
                _collect(one, model, rows)
                one.search_function = _Search(model, one, method, alpha, AWQSearch(bits_length=bits, **_blocks(block)))
                with _whole_scales(model):
                    one.update_weight()
        except (AssertionError, IndexError) as error:
            raise ModelError(_no_pairs(model, method)) from error
        finally:
            one._remove_hook()
    after = _states(model, rows[0])
    change = float(np.abs(after - before).max() / np.abs(before).max())
    if not change <= LARGEST_CHANGE:
        raise ModelError(
            f"{method} changes what {type(model).__name__} computes by {change:.2g} of its largest hidden state: its "
            "norms are not the kind PaddleSlim knows; use method gptq or ptq"
        )
    return len(one.smooth_scale_dict)


@contextmanager
def _names(model: nn.Layer, row: np.ndarray) -> Iterator[None]:
    """Give norms and linear layers the names that PaddleSlim goes by: norm_0 before the first attention, norm_1 before
    the first MLP, and so on. Norms with no linear layer right behind them get none."""
    order: List[nn.Layer] = []
    watched_layers = {id(one): one for layer in decoder_layers(model).values() for one in _norms_and_linears(layer)}
    hooks = [
        one.register_forward_pre_hook(lambda layer, inputs: order.append(layer)) for one in watched_layers.values()
    ]
    run_rows(model, [row])
    for hook in hooks:
        hook.remove()
    kept = {id(layer): layer._full_name for layer in model.sublayers()}
    for layer in model.sublayers():
        layer._full_name = "other"
    num_norms = 0
    for number, (layer, following) in enumerate(zip(order, [*order[1:], None])):
        if isinstance(layer, nn.Linear):
            layer._full_name = f"linear_{number}"
        elif isinstance(following, nn.Linear):
            layer._full_name, num_norms = f"norm_{num_norms}", num_norms + 1
    try:
        yield
    finally:
        for layer in model.sublayers():
            layer._full_name = kept[id(layer)]


@contextmanager
def _whole_scales(model: nn.Layer) -> Iterator[None]:
    """Gemma's norms keep their scale's distance from 1; inside a `with` they hold the scale."""
    names = ((layer, type(layer).__name__) for layer in model.sublayers())
    norms = [layer for layer, name in names if name.startswith("Gemma") and "Norm" in name]
    for norm in norms:
        norm.weight.set_value(norm.weight + 1)
    try:
        yield
    finally:
        for norm in norms:
            norm.weight.set_value(norm.weight - 1)


def _norms_and_linears(decoder_layer: nn.Layer) -> List[nn.Layer]:
    """Its linear layers, and its own norms: not those of heads, which are deeper inside."""
    own = [layer for layer in decoder_layer.children() if "norm" in type(layer).__name__.lower()]
    return own + list(find_linears(decoder_layer).values())


def _collect(one: Smooth, model: nn.Layer, rows: Sequence[np.ndarray]) -> None:
    run_rows(model, rows[:1])  # the first pass only finds the order of the layers
    one.layer_order += ["other"] * 3  # it looks three layers behind a norm, and falls off the end
    for row in rows:
        one.step += 1
        run_rows(model, [row])


def _kind(model: nn.Layer) -> Dict[str, Any]:
    """How PaddleSlim finds layers behind a norm: by their order and number."""
    names = {path.rsplit(".", 1)[-1] for path, layer in model.named_sublayers() if isinstance(layer, nn.Linear)}
    return {"fused_qkv": "q_proj" not in names, "parallel_ffn": "gate_proj" in names}


def _blocks(block: int) -> Dict[str, Any]:
    return {"weight_quant_method": "groupwise", "group_size": block} if block else {
        "weight_quant_method": "abs_max_channel_wise"
    }  # fmt: skip


def _no_pairs(model: nn.Layer, method: str) -> str:
    return (
        f"method {method} finds no norm with linear layers behind it in {type(model).__name__}, as PaddleSlim looks "
        "for them; use method gptq or ptq"
    )


def _states(model: nn.Layer, row: np.ndarray) -> np.ndarray:
    with paddle.no_grad():
        model.row_layout.set([[len(row)]])
        return hidden_states(model, paddle.to_tensor(row[None].astype("int64"))).numpy()


class _Search:
    """Scales of one norm from all linear layers behind it; PaddleSlim asks once for each and keeps the last answer."""

    def __init__(self, model: nn.Layer, one: Smooth, method: str, alpha: float, search: AWQSearch) -> None:
        self._weights = {layer.full_name(): layer.weight for layer in model.sublayers() if hasattr(layer, "weight")}
        self._one = one
        self._method = method
        self._alpha = alpha
        self._search = search

    def search(self, layer_name: str, sampled_input: Tensor, act_abs_max: Tensor, weight: Tensor) -> Tensor:
        norm = self._one.linear_ln_dict[layer_name]
        together: List[Tensor] = [self._weights[name].astype("float32") for name in self._one.ln_linear_dict[norm]]
        whole, largest = paddle.concat(together, axis=1), self._one.scale_dict[norm].astype("float32")
        if self._method == "awq":
            return self._search.search(layer_name, self._one.sampled_inputs[norm].astype("float32"), largest, whole)
        by_weight = whole.abs().max(axis=1).reshape(largest.shape).clip(min=1e-8)
        return (largest.pow(self._alpha) / by_weight.pow(1.0 - self._alpha)).clip(min=1e-5)
