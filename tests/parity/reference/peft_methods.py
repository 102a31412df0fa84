"""Ten steps of PEFT's other methods on linear layers, beside LoRA."""

from __future__ import annotations

import re
from typing import Any, Dict, List

import peft
import torch
from networks import load
from safetensors.torch import save_file

CONFIGS = {
    "vera": peft.VeraConfig,
    "lokr": peft.LoKrConfig,
    "loha": peft.LoHaConfig,
    "adalora": peft.AdaLoraConfig,
    "ia3": peft.IA3Config,
    "oft": peft.OFTConfig,
}
_PREFIX = "base_model.model.model."


def train_adapter(
    folder: str,
    method: str,
    settings: Dict[str, Any],
    steps: List[Dict[str, List[List[int]]]],
    learning_rate: float,
    input_ids: List[List[int]],
    output: str,
) -> Dict[str, Any]:
    """AdamW over a fresh adapter of PEFT.

    Args:
        steps: input_ids, labels (-100 where nothing is trained) and attention_mask of each.
        output: safetensors file: start/NAME and end/NAME of each of the adapter's arrays, and logits of input_ids at
            the end.

    Returns:
        losses: of each step before its update, without penalties.
    """
    torch.manual_seed(3)
    model = peft.get_peft_model(load(folder), CONFIGS[method](task_type="CAUSAL_LM", **settings))
    model.train()
    arrays = {f"start/{name}": tensor for name, tensor in _arrays(model).items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    losses = []
    for number, batch in enumerate(steps, 1):
        tensors = {name: torch.tensor(rows) for name, rows in batch.items()}
        outputs = model(**tensors)
        logits, labels = outputs.logits[:, :-1].flatten(0, 1), tensors["labels"][:, 1:].flatten()
        losses.append(torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100).item())
        outputs.loss.backward()
        optimizer.step()
        if method == "adalora":
            model.base_model.update_and_allocate(number)
        optimizer.zero_grad()
    arrays.update({f"end/{name}": tensor for name, tensor in _arrays(model).items()})
    with torch.no_grad():
        arrays["logits"] = model.eval()(input_ids=torch.tensor(input_ids)).logits
    save_file({name: tensor.contiguous() for name, tensor in arrays.items()}, output)
    return {"losses": losses}


def _arrays(model: Any) -> Dict[str, torch.Tensor]:
    """layers.0.self_attn.q_proj.ia3_l -> a copy of every trained array, and of VeRA's shared ones."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = {}
    for name, tensor in named.items():
        kind = re.search(r"(vera_|lokr_|hada_|lora_[ABE]|ia3_l|oft_R)", name)
        if kind and tensor.is_floating_point():
            short = re.sub(r"\.default(\.weight)?$", "", name.removeprefix(_PREFIX).removeprefix("base_model."))
            short = re.sub(r"^.*(vera_[AB])$", r"\1", short)  # one pair, which every layer shows
            found[short] = tensor.detach().clone()
    return found


def lokr_factors(sizes: List[int], factors: List[int]) -> List[List[int]]:
    """PEFT's cut of each size with each factor."""
    from peft.tuners.lokr.layer import factorization

    return [list(factorization(size, factor)) for size in sizes for factor in factors]
