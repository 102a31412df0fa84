"""Adapter folders as PEFT writes and reads them."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import networks
import peft
import torch
from safetensors.torch import save_file


@torch.no_grad()
def make_peft_folder(
    base: str, kind: str, settings: Dict[str, Any], output: str, input_ids: List[List[int]], logits: str, seed: int = 3,
    vocab_size: Optional[int] = None,
) -> None:  # fmt: skip
    """A folder with an adapter of PEFT, every weight of it random as if it had been trained, and what it computes.

    Args:
        kind: the class of its config, such as LoraConfig.
        vocab_size: to what the base's vocabulary is grown before.
    """
    torch.manual_seed(seed)
    network = _grown(base, vocab_size)
    model = peft.get_peft_model(network, getattr(peft, kind)(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.eval()
    save_file({"logits": model(input_ids=torch.tensor(input_ids)).logits.contiguous()}, logits)
    model.save_pretrained(output)


def _grown(base: str, vocab_size: Optional[int]) -> Any:
    model = networks.load(base)
    if vocab_size is not None:
        model.resize_token_embeddings(vocab_size)
    return model


def every_other(draws: int, numel: int, density: float) -> torch.Tensor:
    """Zeros and ones that tests/parity/test_combine.py draws, too: they depend on the number of the draw alone."""
    return ((torch.arange(numel) + 7919 * draws) * 40503 % 65536 / 65536 < density).float()


@torch.no_grad()
def combined_logits(
    base: str, folders: List[str], settings: Dict[str, Any], input_ids: List[List[int]], logits: str
) -> None:
    """What PEFT computes with a weighted combination of folders (settings: those of add_weighted_adapter)."""
    model = peft.PeftModel.from_pretrained(networks.load(base), folders[0], adapter_name="0")
    for number, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=str(number))
    usual, draws = torch.bernoulli, 0

    def bernoulli(probabilities: torch.Tensor) -> torch.Tensor:
        nonlocal draws
        draws += 1
        density = float(probabilities.flatten()[0])
        return every_other(draws, probabilities.numel(), density).reshape(probabilities.shape)

    torch.bernoulli = bernoulli
    try:
        model.add_weighted_adapter([str(number) for number in range(len(folders))], adapter_name="one", **settings)
    finally:
        torch.bernoulli = usual
    model.set_adapter("one")
    save_file({"logits": model.eval()(input_ids=torch.tensor(input_ids)).logits.contiguous()}, logits)


@torch.no_grad()
def peft_folder_logits(
    base: str, folder: str, input_ids: List[List[int]], logits: str, vocab_size: Optional[int] = None
) -> Dict[str, Any]:
    """What PEFT computes with a folder; returns the warnings that it gave."""
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(_grown(base, vocab_size), folder).eval()
    save_file({"logits": model(input_ids=torch.tensor(input_ids)).logits.contiguous()}, logits)
    return {"warnings": [str(one.message) for one in caught if "adapter" in str(one.message)]}
