"""A trained model -> a smaller one for deployment: calibrate, quantise, measure before and after, write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import paddle
from paddle import nn
from paddleslim.quant.observers import AbsMaxChannelWiseWeightObserver, MSEChannelWiseWeightObserver

from paddle_sft.core.atomic import atomic_folder, write_json
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.export.quantise import REPORT, require_floats
from paddle_sft.export.slim.gptq import GridWeight, quantise_gptq
from paddle_sft.export.slim.observe import observe_inputs, rounded_inputs
from paddle_sft.export.slim.smooth import smooth
from paddle_sft.export.slim.walk import measure
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import load_model
from paddle_sft.models.linears import compute_dtype, features, find_linears
from paddle_sft.models.quantised import replace_layer
from paddle_sft.models.tokenizers import copy_tokenizer
from paddle_sft.models.writer import write_model
from paddle_sft.quant.aware import ACTIVATIONS, activations_file
from paddle_sft.quant.codec import quantise
from paddle_sft.quant.linear import QuantisedLinear
from paddle_sft.quant.scheme import Scheme

WEIGHT_OBSERVERS: Dict[str, Any] = {
    "abs_max": AbsMaxChannelWiseWeightObserver,
    "mse": MSEChannelWiseWeightObserver,
}


@dataclass(frozen=True)
class Method:
    """What a name of METHODS means."""

    algorithm: str
    """weight_quantize_algo where the user gives none."""
    block: int
    """weight_blocksize where the user gives none."""
    activations: bool
    """Whether the inputs of linear layers get 8 bits too."""


METHODS: Dict[str, Method] = {
    "ptq": Method("weight_only_int8", 0, True),
    "gptq": Method("weight_only_int4", 128, False),
    "awq": Method("weight_only_int4", 128, False),
    "smoothquant": Method("weight_only_int8", 0, True),
    "qat": Method("weight_only_int8", 0, True),
}


@dataclass(frozen=True)
class DeployJob:
    """What is quantised, how, and where it goes."""

    model: Path
    output: Path
    method: str
    algorithm: Optional[str] = None
    """weight_only_int8 or weight_only_int4; None for the method's own."""
    block: Optional[int] = None
    weight_observer: str = "abs_max"
    activation_observer: str = "avg"
    smooth_alpha: float = 0.5

    @property
    def scheme(self) -> Scheme:
        own = choose("method", self.method, METHODS)
        algorithm = self.algorithm or own.algorithm
        if not algorithm.startswith("weight_only_int"):
            raise ArgumentError(
                f"method {self.method} rounds to whole numbers, weight_quantize_algo {algorithm} doesn't; write "
                "weight_only_int8 or weight_only_int4, or leave method out"
            )
        return Scheme(algorithm, own.block if self.block is None else self.block)


def deploy(job: DeployJob, calibration: Sequence[Any], held_out: Sequence[Any]) -> Dict[str, Any]:
    """Quantise a model folder into another one, and return the report that is written beside the weights.

    Args:
        calibration: samples whose inputs the method sees.
        held_out: samples on which loss and perplexity are measured, before and after.

    Raises:
        ArgumentError: an algorithm or observer that the method can't use, or a model that is quantised already.
        ModelError: the model can't be read, or is not one that the method can scale.
    """
    scheme = job.scheme
    choose("weight_observer", job.weight_observer, WEIGHT_OBSERVERS)
    require_floats(job.model, read_config(job.model))
    network = load_model(job.model, "float32").model
    network.eval()
    rows = [sample.ids for sample in calibration]
    report: Dict[str, Any] = {
        "method": job.method,
        "weights": scheme.describe(),
        "calibration": {"samples": len(rows), "tokens": sum(len(row) for row in rows)},
        "before": measure(network, held_out),
    }
    scales: Dict[str, float] = {}
    grids: Dict[str, GridWeight] = {}
    if job.method in ("smoothquant", "awq"):
        report["scaled_norms"] = smooth(network, rows, job.method, scheme.bits, scheme.block_size, job.smooth_alpha)
    if job.method == "qat":
        scales = _learnt_scales(job.model, find_linears(network))
    elif METHODS[job.method].activations:
        scales = observe_inputs(network, rows, job.activation_observer)
    if job.method == "gptq":
        grids = quantise_gptq(network, rows, scheme.bits, scheme.block_size)
    report["layers"] = _replace_linears(network, scheme, grids, job)
    report["after"] = measure(network, held_out)
    if scales:
        with rounded_inputs(network, scales):
            report["after_with_8_bit_inputs"] = measure(network, held_out)
    _write(job, network, scales, report)
    return report


def _learnt_scales(folder: Path, linears: Dict[str, nn.Layer]) -> Dict[str, float]:
    """The scales that a quantisation-aware run left beside its weights."""
    try:
        content = json.loads((folder / ACTIVATIONS).read_text(encoding="utf-8"))
        scales = {path: float(scale) for path, scale in content["scales"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder} has no readable {ACTIVATIONS}: it is not what a run with qat a8w8 or a8w4 leaves; train with "
            "qat, or use method ptq"
        ) from error
    if not scales.keys() <= linears.keys():
        raise ModelError(f"{folder / ACTIVATIONS} names {min(scales.keys() - linears.keys())}, no layer of the model")
    return scales


def _replace_linears(network: nn.Layer, scheme: Scheme, grids: Dict[str, GridWeight], job: DeployJob) -> Dict[str, Any]:
    """Put quantised layers in place, and tell how many came from where."""
    rounded: List[str] = []
    linears = find_linears(network)
    for path, layer in linears.items():
        if path in grids:
            weight, steps = paddle.to_tensor(grids[path].weight), grids[path].scales
        else:
            weight, steps = layer.weight, _observed_steps(layer, scheme, job)
            rounded.append(path)
        given = None if steps is None else paddle.to_tensor(np.ascontiguousarray(steps.T).reshape([-1]))
        arrays = quantise(weight.t(), scheme, f"{path}.weight", scales=given)
        sizes = features(layer)
        replace_layer(network, path, QuantisedLinear(arrays, scheme, *sizes, compute_dtype(layer), layer.bias))
    found: Dict[str, Any] = {"quantised": len(linears)}
    if job.method == "gptq" and rounded:
        found["rounded_to_nearest"] = rounded  # no calibration row reached them
    return found


def _observed_steps(layer: nn.Layer, scheme: Scheme, job: DeployJob) -> Optional[np.ndarray]:
    """Steps [1, out] of the grid as PaddleSlim's observer finds them; None for blocks, where the largest counts."""
    if scheme.block_size:
        return None
    observer = WEIGHT_OBSERVERS[job.weight_observer](quant_bits=scheme.bits)._instance(layer)
    observer(layer.weight)
    return observer.scales().numpy().reshape([1, -1]) / (2 ** (scheme.bits - 1) - 1)


def _write(job: DeployJob, network: nn.Layer, scales: Dict[str, float], report: Dict[str, Any]) -> None:
    with atomic_folder(job.output) as beside:
        write_model(beside, network, "paddle")
        copy_tokenizer(job.model, beside)
        if scales:
            write_json(beside / ACTIVATIONS, activations_file(scales))
        write_json(beside / REPORT, report)


def describe(report: Dict[str, Any]) -> List[str]:
    """The report in lines."""
    lines = [
        f"{report['method']}: {report['layers']['quantised']} linear layers, weights {report['weights']}; calibrated "
        f"on {report['calibration']['samples']} samples ({report['calibration']['tokens']:,} tokens)"
    ]
    for key, words in (
        ("before", "before"),
        ("after", "quantised weights"),
        ("after_with_8_bit_inputs", "quantised weights and 8-bit inputs"),
    ):
        if key in report:
            found = report[key]
            lines.append(f"  {words}: perplexity {found['perplexity']:.4f}, loss {found['loss']:.4f}")
    return lines
