"""Random small configs of every family against transformers: logits and the gradient of every parameter, of samples
alone and packed into one row. tests/parity/configs says how to add a family."""

from __future__ import annotations

import importlib
import json
import re
import zlib
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from paddle_sft.core.records import IGNORED
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import spell_as_paddlenlp
from paddle_sft.models.family import REQUIRED
from paddle_sft.models.hub import load_model, unique_parameters
from paddle_sft.models.renames import rename_table
from paddle_sft.models.writer import write_model
from tests.parity.asking import Reference
from tests.plain import token_loss_sum

NUM_CONFIGS = 6
TOLERANCE = 1e-5
"""Largest difference over the largest number: of the logits, and of each parameter's gradient."""
GRAIN = 1e-7
"""A difference below this part of the model's largest gradient is float32's rounding, however small a gradient is."""
LENGTHS = ((2, 7), (9, 20), (26, 46))
"""From, below: the samples' lengths. They grow, as transformers' dynamic rope keeps the table of the longest it saw."""


ALL = [(family, number) for family in FAMILIES for number in range(NUM_CONFIGS)]


@pytest.fixture(scope="module", params=ALL, ids=lambda drawn: f"{drawn[0]}-{drawn[1]}")
def case(request: pytest.FixtureRequest, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder that transformers wrote, samples, and what transformers computes of each alone."""
    family, number = request.param
    rng = np.random.default_rng([zlib.crc32(family.encode()), number])
    config = drawing_of(family).random_config(rng, number)
    return Case(reference, tmp_path_factory.mktemp(f"{family}-{number}"), config, rng)


class Case:
    def __init__(self, reference: Reference, folder: Path, config: Dict[str, Any], rng: np.random.Generator) -> None:
        self.folder, self.config = folder / "theirs", config
        lengths = [int(rng.integers(*limits)) for limits in LENGTHS]
        # from 1 on: the padding token too, whose embedding most families leave out of training
        self.samples = [rng.integers(1, config["vocab_size"], length).tolist() for length in lengths]
        self.samples[2][:3] = [1, 2, 3]
        self.targets = [
            np.where(rng.random(n) < 0.6, rng.integers(4, config["vocab_size"], n), IGNORED) for n in lengths
        ]
        seed = int(rng.integers(2**31))
        reference.ask("make_model", folder=self.folder, config=config, seed=seed)
        targets = [part.tolist() for part in self.targets]
        reference.ask(
            "samples_alone", folder=self.folder, samples=self.samples, targets=targets, output=folder / "answer"
        )
        answer = load_file(str(folder / "answer"))
        self.logits = [answer.pop(f"logits/{number}") for number in range(len(self.samples))]
        self.gradients = {name.partition("/")[2]: array for name, array in answer.items()}


def drawing_of(family: str) -> Any:
    """The module of tests/parity/configs that knows the family's configs."""
    return importlib.import_module(f"tests.parity.configs.{family}")


def test_samples_alone_give_transformers_logits(case: Any, verified: Any) -> None:
    model = load_model(case.folder, "float32").model
    with paddle.no_grad():
        found = [our_logits(model, [sample])[0] for sample in case.samples]
    pairs = {f"logits {number}": pair for number, pair in enumerate(zip(found, case.logits))}
    verified(case.config["model_type"], "logits", require_close(pairs, case.config))
    verified(case.config["model_type"], "configs", 1, add=True)


def test_packed_samples_give_transformers_logits_and_gradients(case: Any, verified: Any) -> None:
    model = load_model(case.folder, "float32").model
    order = [1, 2, 0]
    for parameter in model.parameters():
        parameter.stop_gradient = False
    model.row_layout.set([[len(case.samples[number]) for number in order]])
    packed = model(input_ids=paddle.to_tensor([sum((case.samples[number] for number in order), [])]))
    packed = packed[0] if isinstance(packed, (tuple, list)) else packed
    targets = np.concatenate([case.targets[number] for number in order])
    (token_loss_sum(packed, paddle.to_tensor(targets[None])) / int((targets != IGNORED).sum())).backward()
    theirs = np.concatenate([case.logits[number] for number in order])
    family = case.config["model_type"]
    verified(family, "packed", require_close({"logits": (packed.numpy()[0], theirs)}, case.config))
    pairs = without_zeros(paired_gradients(model, case.gradients), case.config)
    verified(family, "gradients", require_close(pairs, case.config))


def test_a_folder_written_by_us_is_the_same_model_to_transformers(
    case: Any, reference: Reference, tmp_path: Path
) -> None:
    write_model(tmp_path, load_model(case.folder, "float32").model, "hf")
    for number in (0, 2):  # a fresh model each: see LENGTHS
        reference.ask("logits", folder=tmp_path, input_ids=[case.samples[number]], output=tmp_path / "logits")
        found = load_file(str(tmp_path / "logits"))["logits"][0]
        np.testing.assert_array_equal(found, case.logits[number], err_msg=json.dumps(case.config))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_transformers_config_is_known(family: str, reference: Reference) -> None:
    config = spell_as_paddlenlp(reference.ask("default_config", model_type=family))
    assert FAMILIES[family].unknown(config) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_with_hardly_a_key_means_transformers_defaults(
    family: str, reference: Reference, tmp_path: Path
) -> None:
    minimal = drawing_of(family).MINIMAL
    required = {key for key, default in FAMILIES[family].keys.items() if default is REQUIRED}
    assert minimal.keys() == required, "MINIMAL must hold the required keys of the family, and no others"
    reference.ask("make_model", folder=tmp_path, config={"model_type": family, **minimal}, seed=5)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **minimal}), encoding="utf-8")
    ids = np.random.default_rng(5).integers(4, minimal["vocab_size"], (1, 45))
    reference.ask("logits", folder=tmp_path, input_ids=ids.tolist(), output=tmp_path / "logits")
    model = load_model(tmp_path, "float32").model
    with paddle.no_grad():
        require_close({"logits": (our_logits(model, ids), load_file(str(tmp_path / "logits"))["logits"])}, minimal)


def our_logits(model: Any, ids: Any) -> np.ndarray:
    """[B, T, V] of whole rows."""
    output = model(input_ids=paddle.to_tensor(np.asarray(ids)))
    return (output[0] if isinstance(output, (tuple, list)) else output).numpy()


def paired_gradients(model: Any, theirs: Dict[str, np.ndarray]) -> Dict[str, Tuple[np.ndarray, np.ndarray]]:
    """Hugging Face's name (with a number where a tensor has several pieces) -> the same gradient, ours and theirs."""
    pairs, seen = {}, set()
    table = rename_table(type(model), model.config)
    for name, parameter in unique_parameters(model).items():
        ours = np.zeros(parameter.shape, "float32") if parameter.grad is None else parameter.grad.numpy()
        for number, piece in enumerate(table.sources(name, theirs)):
            part = piece.turned(theirs[piece.hf][piece.hf_at])
            pairs[f"{piece.hf} of {name} {number}"] = (ours[piece.paddle_at] if piece.paddle_at else ours, part)
            seen.add(piece.hf)
    assert seen == theirs.keys(), f"no gradient of ours for {sorted(theirs.keys() - seen)}"
    return pairs


def without_zeros(pairs: Dict[str, Tuple], config: Dict[str, Any]) -> Dict[str, Tuple]:
    """The pairs but those whose gradient is zero by algebra, which are checked to be so."""
    patterns: List[str] = list(getattr(drawing_of(config["model_type"]), "ZERO_GRADIENTS", ()))
    zero = {name for name in pairs if any(re.search(pattern, name) for pattern in patterns)}
    largest = max(np.abs(theirs).max() for _, theirs in pairs.values())
    for name in zero:
        assert max(np.abs(array).max() for array in pairs[name]) < 1e-5 * largest, f"{name} is not zero by algebra"
    return {name: pair for name, pair in pairs.items() if name not in zero}


def require_close(pairs: Dict[str, Tuple[np.ndarray, np.ndarray]], config: Dict[str, Any]) -> float:
    """The largest of the differences that TOLERANCE allows, in its terms."""
    far, furthest = {}, 0.0
    grain = GRAIN * max(np.abs(theirs).max() for _, theirs in pairs.values())
    for name, (ours, theirs) in pairs.items():
        assert ours.shape == theirs.shape, f"{name}: {ours.shape} here, {theirs.shape} there"
        difference, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
        allowed = max(TOLERANCE * largest, grain)
        furthest = max(furthest, float(TOLERANCE * difference / allowed))
        if not difference <= allowed:
            far[name] = f"{difference:.1e} of {largest:.1e}"
    assert not far, f"further from transformers than {TOLERANCE}: {far}\nof {json.dumps(config)}"
    return furthest
