"""Prompt tuning, P-tuning and prefix tuning compute and learn what PEFT's do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.data.collate import collate
from paddle_sft.stages.catalogue import STAGES
from tests import tiny
from tests.parity import cases
from tests.parity.asking import Reference

NUM_STEPS, TOKENS, RATE = 10, 5, 0.01
LOGIT_TOLERANCE, LOSS_TOLERANCE = 1e-5, 1e-4
Arrays = Dict[str, np.ndarray]

METHODS: Dict[str, Any] = {
    "prompt": ("prompt_tuning", {}, {}),
    "p-mlp": ("p_tuning", {"encoder_hidden_size": 24}, {}),
    "p-lstm": ("p_tuning", {"encoder_hidden_size": 24, "encoder_reparameterization_type": "LSTM"}, {}),
    "prefix-mlp": ("prefix_tuning", {"encoder_hidden_size": 24}, {"prefix_projection": True}),
    "prefix": ("prefix_tuning", {}, {"prefix_projection": False}),
}
"""Name -> (method, settings of both sides, settings that both have and of which PEFT has another default)."""


def linear(theirs: Arrays, name: str, ours: str) -> Arrays:
    return {f"{ours}.weight": theirs[f"{name}.weight"].T, f"{ours}.bias": theirs[f"{name}.bias"]}


def our_arrays(theirs: Arrays, name: str, num_layers: int) -> Arrays:
    """PEFT's prompt encoder under our names, in our layout."""
    table = theirs["embedding.weight"]
    if name == "prompt":
        return {"prompt": table}
    if name == "prefix":
        return {f"prefix.{layer}": part for layer, part in enumerate(np.split(table, num_layers, axis=1))}
    found = {"embedding": table}
    if name == "prefix-mlp":
        found.update(linear(theirs, "transform.0", "hidden"))
        up = linear(theirs, "transform.2", "up")
        for layer in range(num_layers):
            for kind in ("weight", "bias"):
                found[f"up.{layer}.{kind}"] = np.split(up[f"up.{kind}"], num_layers, axis=-1)[layer]
        return found
    for number in range(2 if name == "p-lstm" else 3):
        found.update(linear(theirs, f"mlp_head.{2 * number}", f"mlp.{number}"))
    for part in theirs if name == "p-lstm" else ():
        if part.startswith("lstm_head."):
            kind, _, layer = part.removeprefix("lstm_head.").replace("_reverse", "").rpartition("_l")
            way = "backwards" if part.endswith("_reverse") else "forwards"
            found[f"lstm.{way}.{layer}.{kind}"] = theirs[part].T
    return found


def give(update: Any, arrays: Arrays) -> None:
    state = update.state_dict()
    assert state.keys() == arrays.keys()
    for name, array in arrays.items():
        state[name].set_value(np.ascontiguousarray(array))


def batches_of(samples: list) -> list:
    """For PEFT: ids and labels, filled on the right, with a mask."""
    found = []
    for start in range(0, len(samples), 2):
        pair = samples[start : start + 2]
        width = max(map(len, pair))
        fill = lambda one, rest, width=width: [*map(int, one), *[rest] * (width - len(one))]  # noqa: E731
        found.append(
            {
                "input_ids": [fill(one.ids, 3) for one in pair],
                "attention_mask": [fill(np.ones(len(one)), 0) for one in pair],
                "labels": [fill(np.where(one.trained, one.ids, -100), -100) for one in pair],
            }
        )
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", METHODS)
def test_ten_steps_and_the_trained_prompt_are_pefts(
    reference: Reference, tmp_path: Path, measured: Callable, family: str, name: str
) -> None:
    method, settings, stated = METHODS[name]
    base = cases.make_base(reference, tmp_path / "base", family, seed=4)
    samples = tiny.make_samples(2 * NUM_STEPS, seed=6, longest=18, vocabulary=384)
    settings = {"num_virtual_tokens": TOKENS, **settings, **stated}
    theirs = reference.ask(
        "train_prompt", folder=base, method=method, settings=settings, batches=batches_of(samples), learning_rate=RATE,
        output=tmp_path / "peft.safetensors",
    )  # fmt: skip
    arrays = load_file(str(tmp_path / "peft.safetensors"))
    model = tiny.load(base)
    attach(model, method, ADAPTERS[method].config(**settings), None)
    model.eval()  # without dropout
    update, num_layers = model.model_updates["default"], 2
    side = {part: {n[len(part) :]: a for n, a in arrays.items() if n.startswith(part)} for part in ("start/", "end/")}
    give(update, our_arrays(side["start/"], name, num_layers))
    optimizer = paddle.optimizer.AdamW(RATE, parameters=update.parameters(), weight_decay=0.0)
    losses = []
    for start in range(0, len(samples), 2):
        batch = collate(samples[start : start + 2], 3)
        loss = STAGES["sft"].loss(model, batch) / batch.num_trained
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    difference = np.abs(np.array(losses) - theirs).max()
    measured(f"loss of a step: {family} {name}", difference, LOSS_TOLERANCE)
    assert difference <= LOSS_TOLERANCE and abs(losses[0] - losses[-1]) > 0.01
    give(update, our_arrays(side["end/"], name, num_layers))
    found, expected = tiny.logits(model, batches_of(samples)[0]["input_ids"]), arrays["logits"]
    real = np.array(batches_of(samples)[0]["attention_mask"], dtype=bool)
    difference = np.abs(found - expected)[real].max() / np.abs(expected[real]).max()
    measured(f"logits of PEFT's trained weights: {family} {name}", difference, LOGIT_TOLERANCE)
    assert difference <= LOGIT_TOLERANCE
