"""transformers' Adafactor and its learning-rate schedules."""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from safetensors.torch import load_file, save_file
from transformers import get_scheduler
from transformers.optimization import Adafactor


def adafactor(gradients: str, rate: float, weight_decay: float, output: str) -> None:
    """Steps over given gradients. The file holds start/NAME and STEP/NAME (steps from 0); `output` gets STEP/NAME, the
    parameter after that step."""
    arrays = load_file(gradients)
    names = [key.removeprefix("start/") for key in arrays if key.startswith("start/")]
    parameters = {name: torch.nn.Parameter(arrays[f"start/{name}"].clone()) for name in names}
    optimizer = Adafactor(
        list(parameters.values()), lr=rate, weight_decay=weight_decay, scale_parameter=False, relative_step=False,
        warmup_init=False,
    )  # fmt: skip
    found = {}
    for step in range((len(arrays) - len(names)) // len(names)):
        for name, parameter in parameters.items():
            parameter.grad = arrays[f"{step}/{name}"].clone()
        optimizer.step()
        found.update({f"{step}/{name}": parameter.detach().clone() for name, parameter in parameters.items()})
    save_file(found, output)


def learning_rates(
    name: str, rate: float, num_warmup_steps: int, num_steps: int, specific: Dict[str, Any]
) -> List[float]:
    """The rate after 1, 2, ... num_steps optimizer steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = get_scheduler(name, optimizer, num_warmup_steps, num_steps, scheduler_specific_kwargs=specific or None)
    found = []
    for _ in range(num_steps):
        optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found
