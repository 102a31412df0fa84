"""One rank of two: compares a step under tensor (tp) or pipeline (pp) parallelism with the same step in one process.

Prints one line of JSON a family: the loss, the loss in one process, the worst relative difference of a gradient, and
the names of what this rank and the whole model have.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle.distributed import fleet

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from paddle_sft.models import packed
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import to_paddlenlp
from paddle_sft.models.family import find_named
from paddle_sft.models.fast import use_cpu_forms
from paddle_sft.models.hub import build_from_scratch, unique_parameters
from paddle_sft.parallel import cpu_backend
from tests import tiny

CASES = {"qwen2": {"tie_word_embeddings": False}, "qwen3": {}, "llama": {}}
PIPES = {
    "qwen2": "paddlenlp.transformers:Qwen2ForCausalLMPipe",
    "qwen3": "paddle_sft.models.networks.qwen3:Qwen3ForCausalLMPipe",
    "llama": "paddlenlp.transformers:LlamaForCausalLMPipe",
}
IDS = np.random.default_rng(0).integers(4, 96, (2, 8))
SEGMENTS = [3, 5]


def loss_of(model: Any) -> paddle.Tensor:
    model.train()
    model.row_layout.set([SEGMENTS] * 2)
    out = model(input_ids=paddle.to_tensor(IDS))
    logits = out[0] if isinstance(out, tuple) else out
    return F.cross_entropy(logits[:, :-1].reshape([-1, 96]), paddle.to_tensor(IDS)[:, 1:].reshape([-1]))


def one_process(config: Dict[str, Any]) -> Any:
    """The weights, the loss and the gradients of the whole model."""
    model, random, weights = build_from_scratch(config, "float32", 3), np.random.default_rng(1), {}
    for name, parameter in unique_parameters(model).items():  # no scale is 1 and no bias 0
        weights[name] = parameter.numpy() + 0.05 * random.standard_normal(parameter.shape).astype("float32")
        parameter.set_value(weights[name])
    loss = loss_of(model)
    loss.backward()
    return weights, float(loss), {name: p.grad.numpy() for name, p in unique_parameters(model).items()}


def tensor_parallel(family: str, config: Dict[str, Any], weights: Dict[str, np.ndarray]) -> Any:
    settings = to_paddlenlp(config)
    settings.tensor_parallel_degree, settings.tensor_parallel_rank = 2, paddle.distributed.get_rank()
    settings.tensor_parallel_output = False
    kind = find_named(FAMILIES[family].model_class)
    model = kind(settings)
    use_cpu_forms(model, FAMILIES[family].norms)
    packed.read_by_segments(model, config)
    actions = kind.get_tensor_parallel_convert_actions(settings, list(weights), ignore_error=True)
    share = {name: actions.get(name, lambda whole: whole) for name in weights}
    parameters = unique_parameters(model)
    for name, parameter in parameters.items():
        parameter.set_value(share[name](weights[name]))
    loss = loss_of(model)
    loss.backward()
    return loss, parameters, share


def pipeline_parallel(family: str, config: Dict[str, Any], weights: Dict[str, np.ndarray]) -> Any:
    pipe = find_named(PIPES[family])(to_paddlenlp(config))
    layout = packed.RowLayout(False, packed.rope_of(config))
    kind, function = (find_named(name) for name in FAMILIES[family].attention)
    for layer in pipe.sublayers():
        if type(layer) is kind:
            layer.forward = packed._Forward(layer, packed.LayerRows(layout, 0), function)
    layout.set([SEGMENTS])
    parameters = pipe.state_dict()
    for name, parameter in parameters.items():
        parameter.set_value(weights[name])
    model = fleet.distributed_model(pipe)
    model.train()
    model.scaler = model.lr_scheduler = None
    model.training, model._compute_loss = True, True
    labels = np.concatenate([IDS[:, 1:], np.full((2, 1), -100)], 1)
    loss = model.forward_backward_pipeline([paddle.to_tensor(IDS), paddle.to_tensor(labels)])
    return loss, parameters, {name: lambda whole: whole for name in weights}


def main(mode: str) -> None:
    cpu_backend.install()
    strategy, degree = fleet.DistributedStrategy(), {"tp": (2, 1), "pp": (1, 2)}[mode]
    strategy.hybrid_configs = {"dp_degree": 1, "mp_degree": degree[0], "pp_degree": degree[1]}
    strategy.pipeline_configs = {"accumulate_steps": 2, "micro_batch_size": 1}
    fleet.init(is_collective=True, strategy=strategy)
    for family, changes in CASES.items():
        config = {**FAMILIES[family].defaults(), **tiny.config(family, **changes)}
        weights, expected, gradients = one_process(config)
        run = {"tp": tensor_parallel, "pp": pipeline_parallel}[mode]
        loss, parameters, share = run(family, config, weights)
        worst = 0.0
        for name, parameter in parameters.items():
            distance = np.abs(parameter.grad.numpy() - share[name](gradients[name])).max()
            worst = max(worst, float(distance / np.abs(gradients[name]).max()))
        found = dict(family=family, rank=paddle.distributed.get_rank(), loss=float(loss), expected=expected)
        print(
            "RESULT " + json.dumps({**found, "worst": worst, "names": sorted(parameters), "whole": sorted(weights)}),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1])
