"""transformers' models and tokenizers, and PEFT's adapters on them."""

from __future__ import annotations

from typing import Any, Dict, List

import accelerate
import google.protobuf  # transformers reads a tokenizer.model through it, and without it asks for tiktoken
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)  # the models are tiny; the other core is the test's own
transformers.utils.logging.disable_progress_bar()

_PEFT_PREFIX = "base_model.model.model."


def versions() -> Dict[str, str]:
    return {module.__name__: module.__version__ for module in (torch, transformers, peft, accelerate, google.protobuf)}


def make_model(
    folder: str, config: Dict[str, Any], seed: int, dtype: str = "float32", max_shard_size: str = "5GB"
) -> None:
    """A model folder with random weights, written by transformers. Norm scales and biases are not their defaults."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)


def load(folder: str) -> Any:
    """The model of a folder in float32, ready for exact comparison (no dropout; no kernel that leaves out a cap)."""
    plain = dict(attn_implementation="eager", experts_implementation="eager")  # the other asks for aligned sizes
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **plain).eval()


def default_config(model_type: str) -> Dict[str, Any]:
    """Every key of a family's config class."""
    return AutoConfig.for_model(model_type).to_dict()


@torch.no_grad()
def logits(folder: str, input_ids: List[List[int]], output: str, **given: List[List[int]]) -> None:
    """`given` may hold position_ids."""
    given = {name: torch.tensor(value) for name, value in {"input_ids": input_ids, **given}.items()}
    save_file({"logits": load(folder)(**given).logits.contiguous()}, output)


def gradients(folder: str, input_ids: List[List[int]], labels: List[List[int]], output: str) -> float:
    """Write the gradients of the mean loss over trained tokens, under transformers' names; return the loss.

    labels are not shifted, -100 where nothing is trained.
    """
    model = load(folder)
    loss = model(input_ids=torch.tensor(input_ids), labels=torch.tensor(labels)).loss
    loss.backward()
    save_file({name: parameter.grad.contiguous() for name, parameter in model.named_parameters()}, output)
    return loss.item()


def samples_alone(folder: str, samples: List[List[int]], targets: List[List[int]], output: str) -> None:
    """Write logits/NUMBER [T, V] of each sample alone, and gradients/NAME of the mean loss over all trained tokens.

    targets stand where their logits stand, -100 where nothing is trained.
    """
    model = load(folder)
    found = [model(input_ids=torch.tensor([sample])).logits[0] for sample in samples]
    wanted = torch.tensor([target for sample in targets for target in sample])
    torch.nn.functional.cross_entropy(torch.cat(found), wanted, ignore_index=-100).backward()
    arrays = {f"logits/{number}": logits.detach().contiguous() for number, logits in enumerate(found)}
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        arrays[f"gradients/{name}"] = gradient.contiguous()
    save_file(arrays, output)


@torch.no_grad()
def logits_with_dropout(folder: str, input_ids: List[List[int]], output: str) -> None:
    """Logits in training mode, where the numbers that are dropped are those that tests/parity/test_dropout.py drops."""
    usual, calls = torch.nn.functional.dropout, 0

    def drop(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        nonlocal calls
        if not training or not p:
            return x
        calls += 1
        draws = (torch.arange(x.numel()) + 7919 * calls) * 40503 % 65536 / 65536
        return torch.where(draws.reshape(x.shape) < p, 0.0, x / (1 - p))

    torch.nn.functional.dropout = drop
    try:
        save_file({"logits": load(folder).train()(input_ids=torch.tensor(input_ids)).logits.contiguous()}, output)
    finally:
        torch.nn.functional.dropout = usual


@torch.no_grad()
def rotary_tables(config: Dict[str, Any], lengths: List[int], output: str) -> None:
    """Write LENGTH/frequencies, and LENGTH/cos and LENGTH/sin at the last 16 positions of a text of that length."""
    small = AutoConfig.for_model(**{**config, "num_hidden_layers": 1, "vocab_size": 32064, "intermediate_size": 8})
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(small).model.rotary_emb)
    arrays = {}
    for length in lengths:
        rotary = kind(config=small)
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32), torch.arange(length)[None])
        found = {"cos": cos[0, -16:], "sin": sin[0, -16:], "frequencies": rotary.inv_freq}
        arrays.update({f"{length}/{name}": array.clone() for name, array in found.items()})
    save_file(arrays, output)


def token_ids(folder: str, lines: List[str]) -> List[List[int]]:
    return AutoTokenizer.from_pretrained(folder)(lines, add_special_tokens=False)["input_ids"]


def attach_adapter(model: Any, adapter: Dict[str, Any]) -> Any:
    """PEFT's LoRA on every linear layer, its A and B from a file of ours.

    Args:
        adapter: {"file", "family", "rank", "alpha"}. The file names its arrays FAMILY.layers.0....lora_a [in, r] and
            lora_b [r, out]; PEFT has lora_A [r, in] and lora_B [out, r].
    """
    settings = LoraConfig(
        r=adapter["rank"],
        lora_alpha=adapter["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, settings)
    arrays = load_file(adapter["file"])
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            parameter.copy_(arrays.pop(our_name(name, adapter["family"])).T)
    if arrays:
        raise ValueError(f"layers that PEFT does not adapt: {', '.join(arrays)}")
    return model


def lora_parameters(model: Any) -> Dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


def our_name(name: str, family: str) -> str:
    """base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight -> llama.layers.0.mlp.up_proj.lora_a"""
    path, kind = name.removeprefix(_PEFT_PREFIX).removesuffix(".default.weight").rsplit(".", 1)
    return f"{family}.{path}.{kind.lower()}"


@torch.no_grad()
def adapter_logits(folder: str, adapter: Dict[str, Any], input_ids: List[List[int]], output: str) -> None:
    """Logits of PEFT's model: the base of `folder` plus our adapter, not merged."""
    model = attach_adapter(load(folder), adapter).eval()
    save_file({"logits": model(input_ids=torch.tensor(input_ids)).logits.contiguous()}, output)
