"""PEFT's prompt tuning, P-tuning and prefix tuning on transformers' models."""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from networks import load
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file

CONFIGS = {"prompt_tuning": PromptTuningConfig, "p_tuning": PromptEncoderConfig, "prefix_tuning": PrefixTuningConfig}
_OURS = "prompt_encoder.default."


def train_prompt(
    folder: str,
    method: str,
    settings: Dict[str, Any],
    batches: List[Dict[str, List[List[int]]]],
    learning_rate: float,
    output: str,
) -> List[float]:
    """Train with AdamW, one step for each batch; return the losses.

    Writes start/NAME and end/NAME of the prompt encoder, and logits of the first batch with the trained prompt.

    Args:
        batches: input_ids, attention_mask and labels (not shifted, -100 where nothing is trained), each [B, T].
    """
    torch.manual_seed(3)
    model = get_peft_model(load(folder), CONFIGS[method](task_type="CAUSAL_LM", **settings)).eval()
    encoder = dict(model.named_parameters())
    encoder = {name.removeprefix(_OURS): one for name, one in encoder.items() if name.startswith(_OURS)}
    arrays = {f"start/{name}": one.detach().clone() for name, one in encoder.items()}
    optimizer = torch.optim.AdamW(encoder.values(), lr=learning_rate, weight_decay=0.0)
    losses = []
    for batch in batches:
        loss = model(**{name: torch.tensor(value) for name, value in batch.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    arrays.update({f"end/{name}": one.detach() for name, one in encoder.items()})
    with torch.no_grad():
        first = {name: torch.tensor(value) for name, value in batches[0].items() if name != "labels"}
        found = model(**first).logits[:, -len(batches[0]["input_ids"][0]) :]
    save_file({name: one.contiguous() for name, one in {**arrays, "logits": found}.items()}, output)
    return losses
