"""Fine-tuning with transformers' own Trainer, in float32, in a given order."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional

import torch
from networks import attach_adapter, load, lora_parameters, our_name
from safetensors.torch import save_file
from torch.utils.data import Sampler
from transformers import AutoTokenizer, Trainer, TrainingArguments

IGNORED = -100
Rows = List[Dict[str, str]]


class GivenOrder(Sampler):
    """Samples of every epoch in the order it is told, one epoch after the other."""

    def __init__(self, epochs: List[List[int]]) -> None:
        self.epochs = epochs
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        order = self.epochs[self.epoch]
        self.epoch += 1
        return iter(order)

    def __len__(self) -> int:
        return len(self.epochs[0])


class OrderedTrainer(Trainer):
    """transformers' Trainer with nothing changed but the order of the samples."""

    order: GivenOrder

    def _get_train_sampler(self, *args: Any) -> GivenOrder:
        return self.order


def encode(rows: Rows, tokenizer: Any) -> List[Dict[str, torch.Tensor]]:
    """src tgt end, after a begin token where the tokenizer puts one; the target and the end token are trained."""
    samples = []
    for row in rows:
        prompt = tokenizer(row["src"])["input_ids"]
        target = tokenizer(row["tgt"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        labels = [IGNORED] * len(prompt) + target
        samples.append({"input_ids": torch.tensor(prompt + target), "labels": torch.tensor(labels)})
    return samples


def collate(samples: List[Dict[str, torch.Tensor]]) -> Dict[str, torch.Tensor]:
    """Rows filled on the right, with an attention mask, as transformers' users do it (we fill and need no mask)."""

    def fill(name: str, value: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([one[name] for one in samples], batch_first=True, padding_value=value)

    mask = fill("labels", IGNORED - 1) != IGNORED - 1
    return {"input_ids": fill("input_ids", 0), "labels": fill("labels", IGNORED), "attention_mask": mask.long()}


@torch.no_grad()
def dev_loss(model: Any, samples: List[Dict[str, torch.Tensor]]) -> float:
    """Loss per trained token over all samples, each computed alone, without filling."""
    model.eval()
    total, num_trained = 0.0, 0
    for sample in samples:
        count = int((sample["labels"] != IGNORED).sum())
        total += count * model(**{name: tensor[None] for name, tensor in sample.items()}).loss.double().item()
        num_trained += count
    return total / num_trained


def train(
    folder: str,
    train_rows: Rows,
    dev_rows: Rows,
    epochs: List[List[int]],
    settings: Dict[str, Any],
    output: str,
    adapter: Optional[Dict[str, Any]] = None,
) -> Dict[str, Any]:
    """Fine-tune the model of `folder`: every weight, or with PEFT from the adapter's arrays.

    Args:
        epochs: for each epoch, indices of train_rows in order.
        settings: of transformers' TrainingArguments.
        output: safetensors file: the weights under transformers' names (with an adapter: merged), and the adapter's
            arrays under our names in our layout.

    Returns:
        losses and grad_norms (before clipping) of every step, dev_loss_before, dev_loss_after.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    samples, dev = encode(train_rows, tokenizer), encode(dev_rows, tokenizer)
    model = load(folder)
    if adapter:
        model = attach_adapter(model, adapter)
    before = dev_loss(model, dev)
    arguments = TrainingArguments(
        output_dir=f"{output}.trainer", use_cpu=True, report_to="none", save_strategy="no",
        disable_tqdm=True, **settings,
    )  # fmt: skip
    trainer = OrderedTrainer(model=model, args=arguments, train_dataset=samples, data_collator=collate)
    trainer.order = GivenOrder(epochs)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    after = dev_loss(model, dev)
    arrays = {}
    if adapter:
        found = lora_parameters(model)
        arrays = {our_name(name, adapter["family"]): tensor.detach().T.clone() for name, tensor in found.items()}
        model = model.merge_and_unload()
    arrays.update({name: parameter.detach() for name, parameter in model.named_parameters()})
    save_file({name: array.contiguous() for name, array in arrays.items()}, output)
    return {
        "losses": [entry["loss"] for entry in history],
        "grad_norms": [entry["grad_norm"] for entry in history],
        "dev_loss_before": before,
        "dev_loss_after": after,
    }
