from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.base import is_adapters
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.state import load_adapter, save_adapter
from paddle_sft.core.atomic import damage
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import TensorFile, from_float32, to_float32, write_arrays
from paddle_sft.export.merge import RECEIPT, MergeJob, describe, merge
from paddle_sft.export.prompts import LONGEST
from paddle_sft.export.receipt import PROMPTS
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.hub import load_model
from paddle_sft.models.tokenizers import load_tokenizer
from paddle_sft.models.weights import INDEX_NAME, PDPARAMS_NAME, WEIGHTS_NAME
from paddle_sft.models.writer import write_model
from tests import tiny

RANK, ALPHA = 4, 8.0


@pytest.fixture
def adapter(model_folder, tmp_path):
    """A trained LoRA folder for a tiny model. Its numbers are multiples of 1/8, so that their products are exact."""

    def make(family="llama", targets=None, **changes):
        model = tiny.load(model_folder(family, **changes))
        config = attach(model, "lora", LoRAConfig(lora_rank=RANK, lora_alpha=ALPHA), targets)
        tiny.train_deltas(model)
        for name, parameter in model.state_dict().items():
            if is_adapters(name):
                parameter.set_value(np.round(8 * parameter.numpy()) / 8)
        folder = tmp_path / f"adapter{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        save_adapter(folder, model, "lora", config)
        return folder

    return make


@pytest.fixture
def base(model_folder, tmp_path):
    """A tiny base folder, its weights stored as any type."""

    def make(family="llama", layout="paddle", tag="F32", **changes):
        folder = model_folder(family, layout, **changes)
        if tag == "F32":
            return folder
        copy = shutil.copytree(folder, tmp_path / f"base-{tag}-{layout}")
        file = TensorFile(folder / WEIGHTS_NAME)
        write_arrays(
            copy / WEIGHTS_NAME, {name: from_float32(file.read(name), tag) for name in file.specs}, file.metadata
        )
        return copy

    return make


def stored(folder):
    """Name -> (array as stored, tag) of all weight files of a folder."""
    files = [TensorFile(path) for path in sorted(folder.glob("*.safetensors"))]
    return {name: (np.array(file.read(name)), spec.tag) for file in files for name, spec in file.specs.items()}


def rounded(exact, tag):
    """Double precision -> the stored type, to nearest, ties to even, without the suite's own rounding."""
    if tag == "BF16":
        return paddle.to_tensor(exact.astype(np.float32)).astype("bfloat16").numpy()
    return exact.astype({"F32": np.float32, "F16": np.float16}[tag])


@pytest.mark.parametrize("tag", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("layout", ["paddle", "hf"])
@pytest.mark.parametrize("family", ["llama", "bloom", "gpt2"])
def test_every_merged_bit_is_that_of_the_double_precision_sum(base, adapter, tmp_path, family, layout, tag):
    source, trained = base(family, layout, tag), adapter(family)
    merge(MergeJob(source, trained, tmp_path / "merged", layout=layout))
    before, after = stored(source), stored(tmp_path / "merged")
    assert before.keys() == after.keys()
    deltas = {name: array.astype(np.float64) for name, (array, _) in stored(trained).items()}
    changed = 0
    for name, (array, found_tag) in before.items():
        path = name[: -len(".weight")].replace("model.", "llama.", 1).replace("transformer.", f"{family}.", 1)
        expected = array
        if f"{path}.lora_a" in deltas:
            update = ALPHA / RANK * (deltas[f"{path}.lora_a"] @ deltas[f"{path}.lora_b"])
            exact = to_float32(array, found_tag).astype(np.float64)
            exact += update.T if layout == "hf" and family != "gpt2" else update
            expected = rounded(exact, tag)
            changed += 1
        assert after[name][1] == found_tag == tag
        np.testing.assert_array_equal(after[name][0], expected, name)
    assert changed == {"llama": 14, "bloom": 8, "gpt2": 8}[family]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["paddle", "hf"])
def test_the_merged_folder_computes_what_base_plus_adapter_does(base, adapter, tmp_path, some_ids, family, layout):
    """Whatever the base's layout is: here a Paddle folder goes in."""
    trained = adapter(family)
    merge(MergeJob(base(family), trained, tmp_path / "merged", layout=layout))
    merged = load_model(tmp_path / "merged", "float32")
    assert merged.is_hugging_face == (layout == "hf") and damage(tmp_path / "merged") == []
    adapted = tiny.load(base(family))
    load_adapter(adapted, trained)
    expected = tiny.logits(adapted, some_ids)
    assert np.abs(expected - tiny.logits(tiny.load(base(family)), some_ids)).max() > 0.01
    np.testing.assert_allclose(tiny.logits(merged.model, some_ids), expected, atol=2e-5)
    assert load_tokenizer(tmp_path / "merged")("red cat")["input_ids"] == load_tokenizer(base())("red cat")["input_ids"]


@pytest.mark.parametrize("layout", ["paddle", "hf"])
def test_shards_in_and_out(base, adapter, tmp_path, layout):
    whole, trained = base(), adapter()
    source = shutil.copytree(whole, tmp_path / "source")
    (source / WEIGHTS_NAME).unlink()
    write_model(source, tiny.load(whole), layout, "30KB")
    merge(MergeJob(whole, trained, tmp_path / "one", layout=layout))
    merge(MergeJob(source, trained, tmp_path / "many", layout=layout, max_shard_size="20KB"))
    index = json.loads((tmp_path / "many" / INDEX_NAME).read_text())
    assert len(set(index["weight_map"].values())) > 2
    one, many = stored(tmp_path / "one"), stored(tmp_path / "many")
    assert one.keys() == many.keys() == index["weight_map"].keys()
    for name, (array, _) in one.items():
        np.testing.assert_array_equal(many[name][0], array)


def test_a_pickled_result_holds_the_same_numbers(base, adapter, tmp_path):
    trained = adapter()
    merge(MergeJob(base(), trained, tmp_path / "safe"))
    merge(MergeJob(base(), trained, tmp_path / "pickled", safe_serialization=False))
    assert (tmp_path / "pickled" / PDPARAMS_NAME).is_file() and not list((tmp_path / "pickled").glob("*.safetensors"))
    one, other = (tiny.snapshot(load_model(tmp_path / name, "float32").model) for name in ("safe", "pickled"))
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array)


def test_what_is_not_adapted_is_copied_bit_for_bit(base, adapter, tmp_path):
    merge(MergeJob(base(), adapter(targets=["1.mlp.up_proj"]), tmp_path / "merged"))
    before, after = stored(base()), stored(tmp_path / "merged")
    different = [name for name in before if (before[name][0] != after[name][0]).any()]
    assert different == ["llama.layers.1.mlp.up_proj.weight"]


def receipt_by_hand(base_folder, adapter_folder, merged_folder):
    """The receipt's numbers from two ordinary models, in double precision."""
    adapted, merged = tiny.load(base_folder), tiny.load(merged_folder)
    load_adapter(adapted, adapter_folder)
    tokenizer = load_tokenizer(base_folder)
    rows = [[], []]
    for prompt in PROMPTS:
        ids = np.array([tokenizer(prompt)["input_ids"][:LONGEST]])
        for row, model in zip(rows, (adapted, merged)):
            row.append(tiny.logits(model, ids)[0].astype(np.float64))
    one, other = (np.concatenate(row) for row in rows)
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (one, other))
    return {
        "max_abs_logit_difference": np.abs(one - other).max(),
        "mean_abs_logit_difference": np.abs(one - other).mean(),
        "top1_agreement": (one.argmax(-1) == other.argmax(-1)).mean(),
        "kl": (np.exp(log_p) * (log_p - log_q)).sum(-1).mean(),
        "num_positions": len(one),
    }


@pytest.mark.parametrize("tag", ["F32", "BF16"])
def test_the_receipt_says_what_two_ordinary_models_say(base, adapter, tmp_path, tag):
    source, trained = base(tag=tag), adapter()
    receipt = merge(MergeJob(source, trained, tmp_path / "merged"))
    expected = receipt_by_hand(source, trained, tmp_path / "merged")
    rel = 1e-4 if tag == "BF16" else 1.0  # in float32 the difference itself is rounding, here of rows batched otherwise
    for key, value in expected.items():
        assert receipt[key] == pytest.approx(value, rel=rel, abs=1e-9), key
    assert json.loads((tmp_path / "merged" / RECEIPT).read_text()) == receipt
    assert receipt["dtype"] == {"F32": "float32", "BF16": "bfloat16"}[tag]
    assert (receipt["base"], receipt["adapter"], receipt["method"]) == (str(source), str(trained), "lora")
    assert "top-1 agreement" in describe(receipt)


def test_a_result_beyond_the_tolerance_is_not_written(base, adapter, tmp_path):
    source, trained = base(tag="BF16"), adapter()
    with pytest.raises(
        ModelError, match="differ .* by up to .*, more than the tolerance 1e-07 for bfloat16.*nothing was written"
    ):
        merge(MergeJob(source, trained, tmp_path / "out" / "merged", tolerance=1e-7))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_result_beyond_the_tolerance_leaves_what_was_there(base, adapter, tmp_path):
    output = tmp_path / "merged"
    merge(MergeJob(base(), adapter(), output))
    before = stored(output)
    with pytest.raises(ModelError, match="tolerance"):
        merge(MergeJob(base(), adapter(), output, overwrite=True, tolerance=0.0))
    for name, (array, _) in stored(output).items():
        np.testing.assert_array_equal(array, before[name][0])


@pytest.mark.parametrize("fault", ["scaling", "rounding", "one layer", "transposed"])
def test_the_check_sees_a_wrong_merge(base, adapter, tmp_path, monkeypatch, fault):
    from paddle_sft.export import merge as module

    real = module.merged_tensor
    name = "llama.layers.0.self_attn.q_proj.weight"

    def wrong(opened, saved, spec):
        array, original = np.array(real(opened, saved, spec)), opened.read(spec.name)[0]
        if fault == "scaling":
            return original + 2 * (array - original)
        if fault == "rounding":
            return to_float32(from_float32(array, "BF16") & 0xFFC0, "BF16")
        if spec.name != name:
            return array
        return original if fault == "one layer" else array.T.copy()

    monkeypatch.setattr(module, "merged_tensor", wrong)
    with pytest.raises(ModelError, match="nothing was written"):
        merge(MergeJob(base(), adapter(), tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_an_output_folder_in_use_is_not_written_over_unless_asked(base, adapter, tmp_path):
    trained, output = adapter(), tmp_path / "merged"
    output.mkdir()
    merge(MergeJob(base(), trained, output))  # empty is free
    (output / "notes").write_text("mine")
    with pytest.raises(ArgumentError, match="not empty; name another folder, or set overwrite_output_dir"):
        merge(MergeJob(base(), trained, output))
    assert (output / "notes").is_file()
    merge(MergeJob(base(), trained, output, overwrite=True))
    assert not (output / "notes").exists() and damage(output) == []


def test_the_base_and_the_adapter_are_never_the_output(base, adapter, tmp_path):
    source, trained = base(tag="F16"), adapter()
    detour = tmp_path / "x" / ".."
    for one, other, output in (
        (source, trained, source),
        (source, trained, trained),
        (source, trained, detour / source.name),
        (detour / source.name, trained, source),
        (source, detour / trained.name, trained),
    ):
        with pytest.raises(ArgumentError, match="is the base or the adapter itself"):
            merge(MergeJob(one, other, output, overwrite=True))


def test_the_hugging_face_layout_is_never_pickled(base, adapter, tmp_path):
    with pytest.raises(ArgumentError, match="format hf is written as safetensors only"):
        merge(MergeJob(base(), adapter(), tmp_path / "merged", layout="hf", safe_serialization=False))


def test_an_adapter_of_another_base_is_refused_and_nothing_is_written(base, adapter, tmp_path):
    with pytest.raises(
        ModelError, match=r"another base than .*gate_proj is \[32, 48\], the adapter was trained on \[32, 64\]"
    ):
        merge(MergeJob(base(), adapter(intermediate_size=64), tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_an_adapters_own_tokenizer_wins(base, adapter, tmp_path):
    trained, source = adapter(), shutil.copytree(base(), tmp_path / "source")
    (source / "generation_config.json").write_text('{"top_k": 1}')
    (trained / "generation_config.json").write_text('{"top_k": 7}')
    merge(MergeJob(source, trained, tmp_path / "merged"))
    assert json.loads((tmp_path / "merged" / "generation_config.json").read_text()) == {"top_k": 7}
    assert (tmp_path / "merged" / "tokenizer.model").read_bytes() == (base() / "tokenizer.model").read_bytes()


def test_a_tokenizer_with_ids_that_the_model_lacks_is_refused(adapter, model_folder, tmp_path):
    changes = dict(vocab_size=40)
    with pytest.raises(ModelError, match="the tokenizer gives ids up to .*, the model knows 40 tokens"):
        merge(MergeJob(model_folder("llama", **changes), adapter(**changes), tmp_path / "merged"))


def test_merging_reads_one_tensor_at_a_time(base, adapter, tmp_path, monkeypatch):
    """The base's tensors are maps of the file; only adapted ones are ever copied, and none is kept."""
    import weakref

    from paddle_sft.export import merge as module

    alive, most, real = weakref.WeakValueDictionary(), [], module.merged_tensor

    class Tracked(np.ndarray):
        pass

    def tracked(opened, saved, spec):
        array = real(opened, saved, spec)
        most.append(len(alive))
        if isinstance(array, np.memmap):
            return array
        array = np.array(array).view(Tracked)
        alive[spec.name] = array
        return array

    monkeypatch.setattr(module, "merged_tensor", tracked)
    merge(MergeJob(base(), adapter(), tmp_path / "merged", layout="hf"))
    assert max(most) <= 1 and len(most) == 21
