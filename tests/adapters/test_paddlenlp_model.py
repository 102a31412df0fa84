"""PaddleNLP's prefix and ReFT folders, made by PaddleNLP itself, compute here what its own model does with them."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import facts_of
from paddle_sft.adapters.foreign import foreign_reader
from paddle_sft.adapters.saved import read_own, write_saved
from paddle_sft.adapters.state import load_adapter, read_adapter
from paddle_sft.core.errors import ModelError
from tests import tiny

NUM_PREFIX = 3
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
PREFIX_CASES = {
    "llama": ("llama", {}),
    "llama-3-layers": ("llama", dict(num_key_value_heads=4, num_hidden_layers=3)),
    "llama3": ("llama", dict(rope_scaling=LLAMA3)),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "bloom": ("bloom", {}),
}
REFT_CASES = {
    "both": ("LoreftIntervention", "f2+l1", [0, 1], {}),
    "first": ("LoreftIntervention", "f3", [1], dict(act_fn="relu", dropout=0.3)),
    "last": ("LoreftIntervention", "l2", [1, 0], dict(act_fn="linear", add_bias=True)),
    "tiny": ("TinyIntervention", "f1+l2", [0], dict(act_fn="relu", dropout=0.3)),
}
LOCATIONS = {"f2+l1": [0, 1, -1], "f3": [0, 1, 2], "l2": [-2, -1], "f1+l2": [0, -2, -1]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("base") / "llama")


def theirs_of(folder: Path) -> Any:
    """PaddleNLP's own network, untouched by this suite, with the weights of a folder."""
    from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM

    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)), dtype="float32")
    missing, strange = network.set_state_dict(tiny.load(folder).state_dict())
    assert not missing and not strange and type(network).__module__.startswith("paddlenlp.")
    network.eval()
    return network


def as_if_trained(layer: Any, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for parameter in layer.parameters():
        parameter.set_value(paddle.to_tensor(0.5 * random.standard_normal(parameter.shape).astype("float32")))


def numbers(output: Any) -> np.ndarray:
    return (output[0] if isinstance(output, (tuple, list)) else output).numpy()


def with_prefix(folder: Path, projects: bool = False, **settings: Any) -> Any:
    from paddlenlp.peft import PrefixConfig, PrefixModelForCausalLM, prefix

    network, facts = theirs_of(folder), facts_of(tiny.load(folder))
    config = PrefixConfig(
        num_prefix_tokens=NUM_PREFIX,
        num_attention_heads=facts.num_attention_heads,
        multi_query_group_num=facts.num_key_value_heads,
        num_hidden_layers=facts.num_hidden_layers,
        hidden_size=facts.hidden_size,
        prefix_projection=projects,
        prefix_projection_hidden_size=10 if projects else None,
        **{"dtype": "float32", **settings},
    )
    family = network.base_model_prefix.replace("qwen2", "qwen")
    model = PrefixModelForCausalLM(network, config, getattr(prefix, f"{family}_postprocess_past_key_value"))
    as_if_trained(model.prefix_encoder)
    model.eval()
    return model


def with_reft(folder: Path, kind: str, position: Any, layers: list, **params: Any) -> Any:
    from paddlenlp.peft.reft import ReFTConfig, ReFTModel, intervention_mapping

    params = {"embed_dim": 32, "low_rank_dimension": 4, "dtype": "float32", **params}
    edits = [intervention_mapping[kind](**params) for _ in layers]
    named = [
        {"layer": layer, "component": "block_output", "low_rank_dimension": 4, "intervention": edit}
        for layer, edit in zip(layers, edits)
    ]
    for number, edit in enumerate(edits):
        as_if_trained(edit, number)  # R is orthonormal no more: PaddleNLP trains it freely
        edit.eval()
    return ReFTModel(
        ReFTConfig(representations=named, intervention_params=params, position=position), theirs_of(folder)
    )


def same_here(folder: Path, adapter: Path, ids: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(expected - tiny.logits(tiny.load(folder), ids)).max() > 0.05
    ours = tiny.load(folder)
    load_adapter(ours, adapter)
    np.testing.assert_allclose(tiny.logits(ours, ids), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("projects", [False, True], ids=["table", "projection"])
@pytest.mark.parametrize("case", PREFIX_CASES)
def test_a_prefix_computes_here_what_it_does_there(case, projects, tmp_path, some_ids):
    family, changes = PREFIX_CASES[case]
    folder = tiny.make_model(tmp_path / "base", family, **changes)
    theirs = with_prefix(folder, projects)
    with paddle.no_grad():
        expected = numbers(theirs(input_ids=paddle.to_tensor(some_ids)))
    theirs.save_pretrained(str(tmp_path / "prefix"))
    same_here(folder, tmp_path / "prefix", some_ids, expected)


@pytest.mark.parametrize("case", REFT_CASES)
def test_reft_computes_here_what_it_does_there(case, base, tmp_path, some_ids):
    kind, position, layers, params = REFT_CASES[case]
    theirs = with_reft(base, kind, position, layers, **params)
    places = np.asarray(LOCATIONS[position]) % some_ids.shape[1]
    locations = np.broadcast_to(places, (len(some_ids), len(layers), len(places)))
    with paddle.no_grad():
        found = theirs(input_ids=paddle.to_tensor(some_ids), intervention_locations=paddle.to_tensor(locations))
    theirs.save_pretrained(str(tmp_path))
    same_here(base, tmp_path, some_ids, numbers(found))


@pytest.mark.parametrize("kind", ["prefix", "reft"])
def test_it_becomes_a_folder_of_this_suite(kind, base, tmp_path, some_ids):
    made = with_prefix(base) if kind == "prefix" else with_reft(base, "LoreftIntervention", "f2+l1", [0, 1])
    made.save_pretrained(str(tmp_path / "theirs"))
    network = tiny.load(base)
    (tmp_path / "ours").mkdir()
    write_saved(tmp_path / "ours", read_adapter(tmp_path / "theirs", network))
    assert read_own(tmp_path / "ours").method == ("prefix_tuning" if kind == "prefix" else "reft")
    load_adapter(network, tmp_path / "theirs")
    again = tiny.load(base)
    load_adapter(again, tmp_path / "ours")
    np.testing.assert_array_equal(tiny.logits(again, some_ids), tiny.logits(network, some_ids))


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.fixture(scope="module")
def prefix_folder(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prefix")
    with_prefix(base, projects=True).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def reft_folder(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reft")
    with_reft(base, "LoreftIntervention", "f2+l1", [0, 1]).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(tensor_parallel_degree=2), "split over devices .*merge_tensor_parallel"),
        (dict(multi_query_group_num=None), "the base has 2 key and value heads, the prefix 4"),
        (dict(num_hidden_layers=3, hidden_size=64), "2 layers, the prefix 3; .*8 numbers of a head, the prefix 16"),
        (dict(num_prefix_tokens=4), r"make a prefix of \[3, 64\].* need \[4, 64\]"),
        (dict(num_prefix_tokens=None), "must have num_prefix_tokens"),
        (dict(prefix_projection=False), "1.bias, 1.weight, 3.bias, 3.weight is not of this adapter"),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(base, prefix_folder, tmp_path, keys, words):
    folder = Path(shutil.copytree(prefix_folder, tmp_path / "prefix"))
    change(folder / "prefix_config.json", **keys)
    with pytest.raises(ModelError, match=words):
        load_adapter(tiny.load(base), folder)


@pytest.mark.parametrize(
    "family, changes, words",
    [
        ("gemma", {}, "which has those for llama, mistral, qwen2, bloom, and the base is gemma"),
        ("llama", dict(rope_scaling={"type": "dynamic", "factor": 2.0}), "type 'dynamic': .*otherwise for each length"),
    ],
)
def test_a_prefix_on_a_base_that_it_can_not_have_is_refused(prefix_folder, tmp_path, family, changes, words):
    other = tiny.load(tiny.make_model(tmp_path / "other", family, **changes))
    with pytest.raises(ModelError, match=words):
        load_adapter(other, prefix_folder)


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(position=None), "has no position.*such as f7.l7"),
        (dict(position="7+7"), "position is '7.7'; allowed are f7"),
        (dict(intervention_types=["<class 'my.NewIntervention'>"] * 2), "names NewIntervention; what can be read is"),
        (dict(intervention_types=["a.LoreftIntervention", "a.TinyIntervention"]), "names LoreftIn.*, TinyIn.* for all"),
        (dict(intervention_params={"embed_dim": 64, "low_rank_dimension": 4}), "of 64 numbers, and the base has 32"),
        (dict(intervention_params={"embed_dim": 32, "low_rank_dimension": 5}), "the config needs .32, 5"),
        (dict(intervention_params=None), "not a readable config of ReFT"),
        (dict(representations=[{"layer": 0}, {"layer": 2}]), r"layers names \[2\], and the model has 2"),
    ],
)
def test_a_reft_folder_that_does_not_fit_is_refused(base, reft_folder, tmp_path, keys, words):
    folder = Path(shutil.copytree(reft_folder, tmp_path / "reft"))
    change(folder / "config.json", **keys)
    with pytest.raises(ModelError, match=words):
        load_adapter(tiny.load(base), folder)


def test_reft_of_another_family_is_refused(reft_folder, tmp_path):
    with pytest.raises(ModelError, match="edits Llama only, and the base is mistral"):
        load_adapter(tiny.load(tiny.make_model(tmp_path / "other", "mistral")), reft_folder)


def test_reft_files_that_are_not_there_are_named(base, reft_folder, tmp_path):
    for name in ("intkey_layer.1.bin", "config.json"):
        folder = Path(shutil.copytree(reft_folder, tmp_path / name))
        (folder / name).unlink()
        with pytest.raises(ModelError, match=f"has no {name}"):
            load_adapter(tiny.load(base), folder)


def test_a_model_folder_is_not_taken_for_reft(base):
    assert (base / "config.json").is_file() and foreign_reader(base) is None


class Bad:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_that_would_run_code_is_refused(base, reft_folder, tmp_path, capsys):
    folder = Path(shutil.copytree(reft_folder, tmp_path / "reft"))
    (folder / "intkey_layer.0.bin").write_bytes(pickle.dumps({"rotate_layer.weight": Bad()}))
    with pytest.raises(ModelError, match="plain arrays"):
        load_adapter(tiny.load(base), folder)
    assert "executed" not in capsys.readouterr().out
