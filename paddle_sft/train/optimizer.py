"""Optimizer and learning-rate schedule from the user's arguments."""

from __future__ import annotations

from typing import Any, Container, Dict

import numpy as np
import paddle
from paddle import nn

from paddle_sft.core.errors import CheckpointError
from paddle_sft.core.tensorfile import TensorFile
from paddle_sft.models.hub import stored
from paddle_sft.models.split import part_of
from paddle_sft.train.adafactor import Adafactor

_NOT_DECAYED = ("bias", "norm", "ln_f")
"""Weight decay leaves biases and the scales of norms alone (PaddleNLP's and Hugging Face's convention)."""


def build_optimizer(parameters: Dict[str, paddle.Tensor], schedule: Any, arguments: Any, clips: bool = True) -> Any:
    """AdamW or Adafactor over the trainable parameters; `arguments` are PaddleNLP's TrainingArguments.

    Args:
        clips: whether it clips by their norm; it can't where it has some of them only.
    """
    clip = nn.ClipGradByGlobalNorm(arguments.max_grad_norm) if clips and arguments.max_grad_norm > 0 else None
    decayed = {p.name for name, p in parameters.items() if not any(part in name for part in _NOT_DECAYED)}
    if getattr(arguments.optim, "value", arguments.optim) == "adafactor":
        return Adafactor(
            learning_rate=schedule,
            parameters=list(parameters.values()),
            weight_decay=arguments.weight_decay,
            decays=decayed.__contains__,
            grad_clip=clip,
        )
    return paddle.optimizer.AdamW(
        learning_rate=schedule,
        beta1=arguments.adam_beta1,
        beta2=arguments.adam_beta2,
        epsilon=arguments.adam_epsilon,
        parameters=list(parameters.values()),
        weight_decay=arguments.weight_decay,
        apply_decay_param_fun=decayed.__contains__,
        grad_clip=clip,
        multi_precision=arguments.fp16_opt_level == "O2",
    )


def optimizer_arrays(optimizer: Any, parameters: Dict[str, paddle.Tensor]) -> Dict[str, np.ndarray]:
    """The optimizer's state as arrays named parameter/slot, e.g. lm_head.weight/moment1_0, not by Paddle's counters."""
    return {name: stored(value) for name, value in optimizer_tensors(optimizer, parameters).items()}


def optimizer_tensors(optimizer: Any, parameters: Dict[str, paddle.Tensor]) -> Dict[str, paddle.Tensor]:
    """The same as tensors: what this rank has of it. A tensor of a parameter's shape is the same part as it."""
    by_paddle_name = {parameter.name: name for name, parameter in parameters.items()}
    tensors = {}
    state = optimizer.state_dict()
    masters = state.pop("master_weights", {})
    for key, value in state.items():
        if isinstance(value, paddle.Tensor):
            owner = max((name for name in by_paddle_name if key.startswith(name + "_")), key=len)
            tensors[f"{by_paddle_name[owner]}/{key[len(owner) + 1 :]}"] = value
    for key, value in masters.items():
        tensors[f"{by_paddle_name[key]}/master_weight"] = value
    for key, value in tensors.items():
        parameter = parameters[key.rsplit("/", 1)[0]]
        if value.shape == parameter.shape:
            value.part = part_of(parameter)
    return tensors


def restore_optimizer(
    optimizer: Any, parameters: Dict[str, paddle.Tensor], file: TensorFile, elsewhere: Container[str] = ()
) -> None:
    """Give a fresh optimizer the state that `optimizer_arrays` named.

    Args:
        elsewhere: parameters whose state other ranks have.

    Raises:
        CheckpointError: state of parameters that this run doesn't train.
    """
    state: Dict[str, Any] = {}
    masters: Dict[str, paddle.Tensor] = {}
    for key in file.specs:
        name, slot = key.rsplit("/", 1)
        if name in elsewhere:
            continue
        if name not in parameters:
            raise CheckpointError(f"{file.path} holds the state of {name}, which this run doesn't train")
        # paddle.to_tensor, not numpy: set_state_dict reads a numpy array's type wrongly for bfloat16
        array, part = file.read(key), part_of(parameters[name])
        value = paddle.to_tensor(np.array(array) if part is None or array.shape != part.shape else part.take(array))
        if slot == "master_weight":
            masters[parameters[name].name] = value
        else:
            state[f"{parameters[name].name}_{slot}"] = value
            value.name = f"{parameters[name].name}_{slot}"
    if masters:
        state["master_weights"] = masters
    optimizer.set_state_dict(state)
