"""20 AdamW steps through the user's commands are transformers' 20 steps: losses, weights, evaluation, merged model."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict

import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_sft.adapters.base import is_adapters
from paddle_sft.adapters.state import load_adapter
from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.cli.wiring import Run
from paddle_sft.models.hub import load_model, unique_parameters
from paddle_sft.models.tokenizers import load_tokenizer
from tests.parity import cases, runs
from tests.parity.asking import Reference
from tests.parity.vocabularies import TEXTS

LOSS_TOLERANCE = 1e-4
WEIGHT_TOLERANCE = 1e-4
"""Largest difference over the largest number, of each tensor."""
Measured = Callable[[str, float, float], None]
Arrays = Dict[str, np.ndarray]

EVALUATION_TOLERANCE = 1e-5
LOGIT_TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=cases.TRAINED_SHAPES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def full(family: str, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> runs.Pair:
    return runs.run_both(reference, tmp_path_factory.mktemp(f"{family}-full"), family, learning_rate=5e-4)


@pytest.fixture(scope="module")
def lora(family: str, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> runs.Pair:
    return runs.run_both(reference, tmp_path_factory.mktemp(f"{family}-lora"), family, lora=True, learning_rate=2e-3)


@pytest.fixture(scope="module")
def merged(lora: runs.Pair) -> Path:
    """The trained adapter merged by the user's command, for transformers."""
    output = lora.output_dir.parent / "merged"
    runs.run_command(
        "merge_lora_params.py", "--model_name_or_path", str(lora.base), "--lora_path", str(lora.output_dir),
        "--output_path", str(output), "--format", "hf", "--device", "cpu",
    )  # fmt: skip
    return output


def our_model_arrays(folder: Path, family: str) -> Arrays:
    return cases.as_hugging_face(load_file(str(folder / "model.safetensors")), family)


def require_equal_losses(pair: runs.Pair, measured: Measured) -> None:
    ours = np.array([entry["loss"] for entry in pair.history() if "loss" in entry])
    theirs = np.array(pair.theirs["losses"])
    assert ours.shape == theirs.shape == (runs.NUM_STEPS,)
    measured(f"loss of a step: {pair.name}", np.abs(ours - theirs).max(), LOSS_TOLERANCE)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=LOSS_TOLERANCE)
    assert max(pair.theirs["grad_norms"]) > 1.0, "no step was clipped: clipping was not compared"


def require_equal_weights(ours: Arrays, theirs: Arrays, what: str, measured: Measured) -> None:
    distance_of = cases.distances(ours, theirs)
    furthest = max(distance_of, key=distance_of.get)
    measured(f"{what}, relative ({furthest})", distance_of[furthest], WEIGHT_TOLERANCE)
    assert not cases.beyond(distance_of, WEIGHT_TOLERANCE)


def require_equal_evaluations(pair: runs.Pair) -> None:
    first = next(entry["eval_loss"] for entry in pair.history() if "eval_loss" in entry)
    last = runs.read_json(pair.output_dir / "eval_results.json")["eval_loss"]
    assert abs(first - pair.theirs["dev_loss_before"]) < EVALUATION_TOLERANCE
    assert abs(last - pair.theirs["dev_loss_after"]) < EVALUATION_TOLERANCE
    assert first - last > 0.1, "nothing was learnt: the second comparison says no more than the first"


def test_every_loss_of_full_fine_tuning_is_that_of_transformers(full: runs.Pair, measured: Measured) -> None:
    require_equal_losses(full, measured)


def test_weights_after_full_fine_tuning_are_those_of_transformers(full: runs.Pair, measured: Measured) -> None:
    ours = our_model_arrays(full.output_dir, full.family)
    require_equal_weights(ours, full.their_arrays, f"weights: {full.name}", measured)


def test_evaluation_of_full_fine_tuning_is_that_of_transformers(full: runs.Pair) -> None:
    require_equal_evaluations(full)


def test_adafactor_fine_tuning_is_that_of_transformers(
    reference: Reference, tmp_path: Path, measured: Measured
) -> None:
    pair = runs.run_both(reference, tmp_path, "llama", optim="adafactor", learning_rate=5e-4)
    require_equal_losses(pair, measured)
    ours = our_model_arrays(pair.output_dir, "llama")
    require_equal_weights(ours, pair.their_arrays, f"weights: {pair.name}", measured)


def test_every_loss_of_lora_is_that_of_peft(lora: runs.Pair, measured: Measured) -> None:
    require_equal_losses(lora, measured)


def test_adapter_after_training_is_that_of_peft(lora: runs.Pair, measured: Measured) -> None:
    ours = load_file(str(lora.output_dir / "adapter.safetensors"))
    theirs = {name: array for name, array in lora.their_arrays.items() if ".lora_" in name}
    assert len(theirs) == 2 * 7 * 2  # A and B of seven linear layers in each of two blocks
    require_equal_weights(ours, theirs, f"A and B: {lora.name}", measured)


def test_evaluation_of_lora_is_that_of_peft(lora: runs.Pair) -> None:
    require_equal_evaluations(lora)


def test_merged_weights_are_those_of_peft(lora: runs.Pair, merged: Path, measured: Measured) -> None:
    ours = load_file(str(merged / "model.safetensors"))
    theirs = cases.without(lora.their_arrays, [".lora_"])
    require_equal_weights(ours, theirs, f"merged weights: {lora.name}", measured)


def test_training_an_adapter_leaves_the_weights_of_the_base_alone(lora: runs.Pair, tmp_path: Path) -> None:
    """The same run again inside this process, because its command leaves no trace of the base."""
    run = Run(load_finetune_arguments([str(lora.output_dir.parent / "arguments.json"), "--output_dir", str(tmp_path)]))
    run.trainer.train()
    parameters = unique_parameters(run.loaded.model)
    assert all(parameter.numpy().any() for name, parameter in parameters.items() if name.endswith("lora_b"))
    ours = {
        name.replace(".base.", "."): parameter.numpy()
        for name, parameter in parameters.items()
        if not is_adapters(name)
    }
    base = load_file(str(lora.base / "model.safetensors"))
    np.testing.assert_equal(cases.as_hugging_face(ours, lora.family), base)


def test_merged_model_in_transformers_computes_what_the_adapter_model_does(
    lora: runs.Pair, merged: Path, reference: Reference, tmp_path: Path
) -> None:
    ids = cases.input_ids(seed=5)
    model = load_model(lora.base, "float32").model
    without_adapter = cases.our_logits(model, ids)
    load_adapter(model, lora.output_dir)
    ours = cases.our_logits(model, ids)
    adapter = runs.adapter_at(lora.output_dir / "adapter.safetensors", lora.family)
    reference.ask("adapter_logits", folder=lora.base, adapter=adapter, input_ids=ids.tolist(), output=tmp_path / "peft")
    assert np.abs(ours - without_adapter).max() > 0.1, "the adapter learnt nothing"
    np.testing.assert_allclose(cases.reference_logits(reference, merged, ids), ours, rtol=0, atol=LOGIT_TOLERANCE)
    np.testing.assert_allclose(load_file(str(tmp_path / "peft"))["logits"], ours, rtol=0, atol=LOGIT_TOLERANCE)


def test_tokenizer_of_the_merged_folder_gives_transformers_the_ids_that_we_train_on(
    merged: Path, reference: Reference
) -> None:
    tokenizer = load_tokenizer(merged)
    ours = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS]
    theirs = reference.ask("token_ids", folder=merged, lines=TEXTS)
    assert dict(zip(TEXTS, theirs)) == dict(zip(TEXTS, ours))
