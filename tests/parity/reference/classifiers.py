"""transformers' sequence classifiers."""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSequenceClassification


def make_classifier(folder: str, config: Dict[str, Any], seed: int) -> None:
    """A classifier folder with random weights, written by transformers."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)


def classify(folder: str, samples: List[List[int]], labels: List[Any], output: str) -> Dict[str, Any]:
    """Write logits [N, C] of the samples, padded into one batch on the right, and the gradients of the mean loss.

    labels are ids, or lists of zeros and ones for a model with several labels a text.

    Returns:
        the loss, and the names of the classes.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    length = max(map(len, samples))
    pad = model.config.pad_token_id
    ids = torch.tensor([[*sample, *[pad] * (length - len(sample))] for sample in samples])
    mask = torch.tensor([[1] * len(sample) + [0] * (length - len(sample)) for sample in samples])
    targets = torch.tensor(labels, dtype=torch.float32 if isinstance(labels[0], list) else torch.int64)
    found = model(input_ids=ids, attention_mask=mask, labels=targets)
    found.loss.backward()
    arrays = {f"gradients/{name}": p.grad.contiguous() for name, p in model.named_parameters() if p.grad is not None}
    save_file({"logits": found.logits.detach().contiguous(), **arrays}, output)
    return {
        "loss": found.loss.item(),
        "names": [model.config.id2label[index] for index in range(len(model.config.id2label))],
    }
