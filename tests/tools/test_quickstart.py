"""The quickstart's driver: it runs what a user would type, and does not call a failure a success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import quickstart

from paddle_sft.arguments.load import load_finetune_arguments, load_generate_arguments, load_merge_arguments

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ("pretrain_argument.json", "lora_argument.json")


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """What seven good steps leave behind, in a folder of its own."""
    monkeypatch.setattr(quickstart, "ROOT", tmp_path)
    for folder in (quickstart.BASE, quickstart.LORA):
        write(
            tmp_path / folder / "trainer_state.json",
            {"log_history": [{"step": 0, "eval_loss": 8.0}, {"step": 9, "loss": 5.0}]},
        )
        write(tmp_path / folder / "all_results.json", {"eval_loss": 4.0, "train_tokens_per_second": 1000.0})
    write(tmp_path / quickstart.LORA / "plan.json", {"trainable_parameters": 10, "total_parameters": 200})
    write(
        tmp_path / quickstart.MERGED / "merge_receipt.json", {"max_abs_logit_difference": 1e-6, "top1_agreement": 1.0}
    )
    rows = [{"src": f"# m{number}", "tgt": "Do it.", "output": "Done."} for number in range(quickstart.NUM_PROMPTS)]
    for name in ("prompts.json", "before.json", "after.json"):
        (tmp_path / quickstart.OUTPUT / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_argument_files_load_and_leave_the_device_to_the_machine(name):
    arguments = load_finetune_arguments([str(ROOT / "config" / "quickstart" / name)])
    assert arguments.train.do_train and arguments.train.do_eval and arguments.train.eval_at_start
    assert arguments.train.plot_loss and arguments.train.device is None
    assert arguments.adapter.lora == name.startswith("lora")


def test_every_step_hands_on_what_the_next_one_reads():
    pretrain, lora = (load_finetune_arguments([str(ROOT / "config" / "quickstart" / name)]) for name in CONFIGS)
    commands = [arguments for _, arguments in quickstart.steps()]
    merge = load_merge_arguments(commands[4][1:])
    before, after = (load_generate_arguments(command[3:]) for command in commands[5:])
    assert (
        pretrain.train.output_dir
        == lora.model.model_name_or_path
        == merge.model_name_or_path
        == before.model_name_or_path
    )
    assert lora.train.output_dir == merge.lora_path
    assert merge.output_path == after.model_name_or_path
    for path in (pretrain.model.config_name, pretrain.data.dataset_name_or_path, lora.data.dataset_name_or_path):
        assert Path(path).parent == quickstart.OUTPUT


def test_a_good_run_is_summed_up_with_every_promised_key(outputs):
    summary = quickstart.summarise({"one": 1.0, "two": 2.0})
    assert (summary["initial_eval_loss"], summary["final_eval_loss"]) == (8.0, 4.0)
    assert (summary["trainable_parameters"], summary["total_parameters"], summary["tokens_per_second"]) == (
        10,
        200,
        1000.0,
    )
    assert summary["merge"] == {"max_abs_logit_difference": 1e-6, "top1_agreement": 1.0}
    assert len(summary["generations"]) == 5
    assert set(summary["generations"][0]) == {"prompt", "reference", "before", "after"}
    assert summary["seconds"]["total"] == 3.0
    assert "8.00 -> 4.00" in quickstart.tell(summary)


@pytest.mark.parametrize(
    "file, content, complaint",
    [
        ("lora/all_results.json", {"eval_loss": 7.9, "train_tokens_per_second": 1.0}, "LoRA fine-tuning.*must fall"),
        ("lora/all_results.json", {"eval_loss": float("nan"), "train_tokens_per_second": 1.0}, "must fall"),
        ("base/all_results.json", {"eval_loss": 8.1, "train_tokens_per_second": 1.0}, "pre-training.*must fall"),
        ("base/trainer_state.json", {"log_history": [{"step": 5, "eval_loss": 9.0}]}, "before the first step"),
        ("merged/merge_receipt.json", {"max_abs_logit_difference": 0.5, "top1_agreement": 1.0}, "differs from base"),
        ("merged/merge_receipt.json", {"max_abs_logit_difference": float("nan"), "top1_agreement": 1.0}, "differs"),
        ("merged/merge_receipt.json", {"max_abs_logit_difference": 0.0, "top1_agreement": 0.9}, "90.0%"),
    ],
)
def test_a_run_that_did_not_work_is_refused(outputs, file, content, complaint):
    write(outputs / quickstart.OUTPUT / file, content)
    with pytest.raises(quickstart.QuickstartError, match=complaint):
        quickstart.summarise({})


def test_a_missing_answer_is_refused(outputs):
    (outputs / quickstart.OUTPUT / "after.json").write_text('{"src": "# m0", "output": "Done."}\n')
    with pytest.raises(quickstart.QuickstartError, match="5 prompts gave 5 answers before and 1 after"):
        quickstart.summarise({})


def test_a_step_that_fails_ends_the_quickstart_with_1_and_the_reason(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(quickstart, "ROOT", tmp_path)
    monkeypatch.setattr(quickstart, "steps", lambda: [("break", ["-c", "import sys; sys.exit(3)"])])
    assert quickstart.main([]) == 1
    captured = capfd.readouterr()
    assert "$ python -c 'import sys; sys.exit(3)'" in captured.out
    assert "step 1 (break) ended with exit code 3" in captured.err


def test_prompts_come_from_different_modules_and_stay_the_same():
    rows = [{"src": f"# m{number % 7}\ndef f{number}():", "tgt": "Do it."} for number in range(40)]
    chosen = quickstart.choose_prompts(rows)
    assert len({row["src"].split("\n")[0] for row in chosen}) == 5
    assert chosen == quickstart.choose_prompts(rows[::-1])


def test_answers_that_are_all_alike_are_called_that():
    assert "All 5 answers are the same" in quickstart.what_to_expect(["Return a file."] * 5)
    assert quickstart.what_to_expect(["a", "b", "b", "a", "c"]).startswith("3 of 5 answers differ")


def test_the_advice_at_the_end_can_be_typed(outputs):
    lines = [line.split() for line in quickstart.tell(quickstart.summarise({"one": 1.0})).split("\n")]
    commands = [words[2:] for words in lines if words[:2] == ["python", "run_finetune.py"]]
    assert len(commands) >= 4
    for command in commands:
        load_finetune_arguments([str(ROOT / command[0])] + command[1:])


def test_the_curve_is_drawn(outputs):
    pytest.importorskip("matplotlib")
    quickstart.draw_losses(outputs / "loss.png")
    assert (outputs / "loss.png").read_bytes()[:4] == b"\x89PNG"
