"""PaddleNLP's own adapter folders, made by PaddleNLP itself, compute here what they do there."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.state import load_adapter
from paddle_sft.core.errors import ModelError
from tests import tiny

TARGETS = [".*q_proj", ".*v_proj", ".*down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("base") / "llama")


def wrapped(kind: str, base: Path, **settings: Any) -> Any:
    """PaddleNLP's adapter model over a network of ours, every weight of the adapter random."""
    from paddlenlp import peft

    if kind == "LoKr":  # LoKrModel reads the base's config anew, from a hub where no folder is named
        settings["base_model_name_or_path"] = str(base)
    config = getattr(peft, f"{kind}Config")(target_modules=TARGETS, dtype="float32", **settings)
    found = getattr(peft, f"{kind}Model")(tiny.load(base), config)
    random = np.random.default_rng(0)
    for name, parameter in found.model.named_parameters():
        if any(mark in name for mark in ("lora_", "vera_", "lokr_")):
            drawn = 0.1 * random.standard_normal(parameter.shape)
            parameter.set_value(parameter + paddle.to_tensor(drawn.astype("float32")))
    found.eval()
    return found


CASES = {
    "lora": ("LoRA", dict(r=4, lora_alpha=6)),
    "rslora": ("LoRA", dict(r=4, lora_alpha=6, rslora=True)),
    "mixer": ("LoRA", dict(r=4, lora_alpha=6, lora_use_mixer=True)),
    "vera": ("VeRA", dict(r=4, vera_alpha=6)),
    "lokr": ("LoKr", dict(lokr_dim=3, lokr_alpha=5)),
    "lokr-both": ("LoKr", dict(lokr_dim=2, lokr_alpha=5, decompose_both=True, factor=6)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_paddlenlp_computes_here_what_it_does_there(base, tmp_path, some_ids, case):
    kind, settings = CASES[case]
    plain = tiny.logits(tiny.load(base), some_ids)
    theirs = wrapped(kind, base, **settings)
    with paddle.no_grad():
        expected = theirs.model(input_ids=paddle.to_tensor(some_ids))
    expected = (expected[0] if isinstance(expected, tuple) else expected).numpy()
    assert np.abs(expected - plain).max() > 0.05
    theirs.save_pretrained(str(tmp_path))
    ours = tiny.load(base)
    load_adapter(ours, tmp_path)
    np.testing.assert_allclose(tiny.logits(ours, some_ids), expected, rtol=1e-5, atol=1e-5)


def change(folder, **keys):
    path = folder / "lora_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(tensor_parallel_degree=2), "split over devices .*merge_tensor_parallel"),
        (dict(pissa=True), "pissa is true"),
        (dict(use_mora=True), "use_mora is true"),
        (dict(trainable_bias="lora"), "trainable_bias is 'lora'"),
    ],
)
def test_what_a_folder_alone_can_not_tell_is_refused(base, tmp_path, keys, words):
    wrapped("LoRA", base, r=4).save_pretrained(str(tmp_path))
    change(tmp_path, **keys)
    with pytest.raises(ModelError, match=words):
        load_adapter(tiny.load(base), tmp_path)


class Bad:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_that_would_run_code_is_refused(base, tmp_path, capsys):
    wrapped("LoRA", base, r=4).save_pretrained(str(tmp_path))
    (tmp_path / "lora_model_state.pdparams").write_bytes(pickle.dumps({"a": Bad()}))
    with pytest.raises(ModelError, match="plain arrays"):
        load_adapter(tiny.load(base), tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_a_layer_that_the_base_has_not_is_named(base, tmp_path):
    wrapped("LoRA", base, r=4).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="no layer of the base .llama.layers.0"):
        load_adapter(tiny.load(tiny.make_model(tmp_path / "other", "mistral")), tmp_path)
