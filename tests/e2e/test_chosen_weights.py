"""Commands that train some of a model's own weights."""

from __future__ import annotations

import json

import pytest

from paddle_sft.arguments.load import load_finetune_arguments
from paddle_sft.cli import spectrum
from paddle_sft.cli.wiring import Run
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.hub import unique_parameters
from tests import tiny


@pytest.fixture
def run(model_folder, tmp_path):
    """A run of the command over a tiny llama, not started."""
    data = tiny.make_data(tmp_path / "data")

    def make(**keys):
        given = dict(
            model_name_or_path=str(model_folder()), dataset_name_or_path=str(data), output_dir=str(tmp_path / "out"),
            do_train=True, device="cpu", disable_tqdm=True, max_steps=2, learning_rate=0.01, save_strategy="no",
        )  # fmt: skip
        (tmp_path / "run.json").write_text(json.dumps({**given, **keys}), encoding="utf-8")
        return Run(load_finetune_arguments([str(tmp_path / "run.json")]))

    return make


def trained(one):
    return {name for name, parameter in unique_parameters(one.loaded.model).items() if not parameter.stop_gradient}


def test_freeze_as_llama_factory_writes_it_trains_what_it_says_and_saves_everything(run, tmp_path, model_folder):
    one = run(finetuning_type="freeze", freeze_trainable_layers=1, freeze_trainable_modules="mlp,o_proj")
    names = {
        f"llama.layers.1.{part}.weight"
        for part in ("self_attn.o_proj", *(f"mlp.{p}_proj" for p in ("gate", "up", "down")))
    }
    assert trained(one) == names
    one.show_plan()
    one.train()
    before, after = tiny.snapshot(tiny.load(model_folder())), tiny.snapshot(tiny.load(tmp_path / "out"))
    assert {name for name in before if (after[name] != before[name]).any()} == names
    text = one.report.text()
    assert "freeze: " not in text and "the last 1 layers: mlp, o_proj" in text and "4 of 21 tensors" in text


def test_spectrum_measures_at_the_start_and_its_report_means_the_same_again(run, tmp_path, model_folder, capsys):
    one = run(spectrum_top=50)
    kinds = 7
    assert len(trained(one)) == kinds
    report = tmp_path / "out" / "spectrum.json"
    assert trained(run(spectrum_config_path=str(report))) == trained(one)
    output = tmp_path / "by_command.json"
    assert spectrum.main([str(model_folder()), "--top", "50", "--output", str(output)]) == 0
    assert "mlp.up_proj: 1 of 2, layers" in capsys.readouterr().out
    own, other = json.loads(report.read_text()), json.loads(output.read_text())
    assert own["unfrozen_parameters"] == other["unfrozen_parameters"]
    assert [one["snr"] for one in own["ratios"]] == pytest.approx([one["snr"] for one in other["ratios"]], rel=1e-6)


def test_the_command_adds_what_is_asked_for(model_folder, tmp_path):
    output = tmp_path / "a.json"
    spectrum.main([str(model_folder()), "--top", "10", "--output", str(output), "--extra", "lm_head", "embed_tokens"])
    listed = json.loads(output.read_text())["unfrozen_parameters"]
    assert listed[-2:] == [r"^llama\.embed_tokens\.weight$", r"^lm_head\.weight$"]
    with pytest.raises(ArgumentError, match="--top must be above 0 and at most 100, got 120"):
        spectrum.main([str(model_folder()), "--top", "120"])


def test_rates_by_layer_are_said_in_the_plan_and_go_with_an_adapter_too(run):
    one = run(layerwise_lr_decay=0.5)
    assert "times 0.125 to 1" in one.report._sections["trained weights"][-1][1]
    adapted = run(layerwise_lr_decay=0.5, lora=True)
    rates = {name: p.optimize_attr["learning_rate"] for name, p in unique_parameters(adapted.loaded.model).items()}
    assert rates["llama.layers.0.mlp.up_proj.updates.default.lora_a"] == 0.25


def test_new_tokens_whose_embedding_would_stay_frozen_are_refused(run):
    keys = dict(new_special_tokens=["<a>"], freeze=True, freeze_trainable_layers=1)
    with pytest.raises(ArgumentError, match="new_special_tokens <a> would not be trained: the embedding is frozen"):
        run(**keys)
    one = run(**keys, freeze_extra_modules="embed_tokens,lm_head")
    assert {"llama.embed_tokens.weight", "lm_head.weight"} <= trained(one)


@pytest.mark.parametrize(
    "keys, message",
    [
        (dict(freeze=True, lora=True), "freeze is true and adapter is lora: an adapter freezes every weight"),
        (dict(freeze=True, spectrum_top=30), "freeze and spectrum_top each say which weights are trained; keep one"),
        (dict(freeze_trainable_layers=3), 'freeze_trainable_layers is 3 but freeze is off; add "freeze": true'),
        (dict(spectrum_top=0), "spectrum_top must be above 0 and at most 100, got 0"),
        (dict(freeze=True, freeze_trainable_layers=0), "so nothing would be trained"),
        (dict(layerwise_lr_decay=1.5), "layerwise_lr_decay must be above 0 and at most 1, got 1.5"),
        (dict(adapter="adalora", target_r=16), "adalora_target_r 16 is above adalora_init_r 12"),
        (dict(adapter="adalora", fp16=True), "adapter adalora weighs the gradients"),
        (dict(adapter="adalora", sharding="stage1"), "adapter adalora weighs whole gradients on every rank"),
        (dict(vera=True, d_initial=0.0), "vera_d_initial must not be 0"),
        (dict(vera=True, lokr=True), "one adapter at a time: vera and lokr are asked for"),
        (dict(vera=True, lokr_rank=4), "lokr_rank is 4 but adapter vera has no such key"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(tmp_path, keys, message):
    given = dict(model_name_or_path="m", dataset_name_or_path="d", output_dir="o", do_train=True, **keys)
    (tmp_path / "run.json").write_text(json.dumps(given), encoding="utf-8")
    with pytest.raises(ArgumentError, match=message):
        load_finetune_arguments([str(tmp_path / "run.json")])


def test_paddlenlps_switches_and_keys_reach_the_layers(run):
    one = run(lokr=True, lokr_dim=3, lokr_alpha=6.0)
    assert one.weights.method == "lokr" and one.weights.config.lokr_rank == 3
    assert one.weights.config.scaling == 2.0
    vera = run(vera=True, vera_rank=3)
    assert vera.weights.method == "vera"
    names = [name for name in trained(vera) if name.endswith("lambda_d")]
    shapes = {tuple(unique_parameters(vera.loaded.model)[name].shape) for name in names}
    assert shapes == {(3,)}
