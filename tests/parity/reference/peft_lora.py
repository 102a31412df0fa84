"""Steps of PEFT's LoRA and its relatives."""

from __future__ import annotations

import re
from typing import Any, Dict, List

import peft
import torch
from networks import load
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file

_KINDS = r"(lora_(embedding_)?[AB]|lora_magnitude_vector|modules_to_save|trainable_tokens_delta)"


def train_lora(
    folder: str,
    settings: Dict[str, Any],
    steps: List[Dict[str, List[List[int]]]],
    learning_rate: float,
    input_ids: List[List[int]],
    output: str,
    ways: Dict[str, Any],
) -> List[float]:
    """AdamW over a fresh adapter of PEFT; returns the loss of each step before its update.

    Args:
        settings: of LoraConfig.
        steps: input_ids, labels (-100 where nothing is trained) and attention_mask of each.
        output: safetensors file: start/NAME and end/NAME of each of the adapter's arrays, and logits of input_ids at
            the end.
        ways: plus: LoRA+ with this ratio; frozen_a: train B alone; rows, {"first", "file"}: values of the last rows of
            the embedding and the head, put there before.
    """
    torch.manual_seed(3)
    base = load(folder)
    if "rows" in ways:
        rows = ways["rows"]
        with torch.no_grad():
            arrays = load_file(rows["file"])
            base.model.embed_tokens.weight[rows["first"] :] = arrays["embedding"]
            base.lm_head.weight[rows["first"] :] = arrays["head"]
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    model.train()
    if ways.get("frozen_a"):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_B." in name)
    found = {f"start/{name}": tensor for name, tensor in _arrays(model).items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    if "plus" in ways:
        optimizer = create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=learning_rate, loraplus_lr_ratio=ways["plus"], loraplus_weight_decay=0.0
        )
    losses = []
    for batch in steps:
        outputs = model(**{name: torch.tensor(values) for name, values in batch.items()})
        losses.append(outputs.loss.item())
        outputs.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found.update({f"end/{name}": tensor for name, tensor in _arrays(model).items()})
    with torch.no_grad():
        found["logits"] = model.eval()(input_ids=torch.tensor(input_ids)).logits
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, output)
    return losses


def _arrays(model: Any) -> Dict[str, torch.Tensor]:
    """model.layers.0.self_attn.q_proj.lora_A -> a copy of every array that the adapter has."""
    named = {name: one for name, one in model.named_parameters() if re.search(_KINDS, name)}
    return {
        re.sub(r"\.default(\.weight)?$", "", name.removeprefix("base_model.model.")): one.detach().clone()
        for name, one in named.items()
    }
