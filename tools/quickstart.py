"""The quickstart: from nothing to a merged, fine-tuned model in about four minutes on two CPU cores.

Runs the commands that a user would type, in order, and shows each one before it runs:

    data -> tokenizer -> pre-train a small Llama -> LoRA fine-tuning -> merge -> answers before and after

Everything lands below outputs/quickstart/; summary.json there holds the numbers, loss.png the curve. Ends with 1 and
the reason when a command fails, when the loss did not fall, or when merging changed what the model computes.

    python tools/quickstart.py
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = Path("outputs/quickstart")
"""Relative to the repository, where every command runs: the argument files name the same folder."""
BASE, LORA, MERGED = OUTPUT / "base", OUTPUT / "lora", OUTPUT / "merged"
PROMPTS = OUTPUT / "prompts.json"
NUM_PROMPTS = 5
MAX_NEW_TOKENS = 40
MIN_LOSS_DROP = 0.05
"""LoRA must lower the dev loss by at least this share of what the pre-trained base has; a healthy run is at 0.15."""
MAX_LOGIT_DIFFERENCE = 1e-2
MIN_TOP1_AGREEMENT = 0.99

Step = Tuple[str, List[str]]


class QuickstartError(Exception):
    """A step failed, or its result is not what it must be; the message is for the user."""


def generate_command(model: Path, output_name: str) -> List[str]:
    """The command that answers the held-out prompts with `model`."""
    command = ["-m", "paddle_sft.cli.main", "generate", "--model_name_or_path", str(model)]
    command += ["--prompt_file", str(PROMPTS), "--output_file", str(OUTPUT / output_name)]
    return command + ["--max_new_tokens", str(MAX_NEW_TOKENS), "--batch_size", str(NUM_PROMPTS)]


def steps() -> List[Step]:
    """(title, arguments after `python`) of every step, in order."""
    merge = ["merge_lora_params.py", "--model_name_or_path", str(BASE), "--lora_path", str(LORA)]
    merge += ["--output_path", str(MERGED), "--overwrite_output_dir", "true"]
    return [
        ("read the standard library", ["tools/quickstart_data.py", "--output_dir", str(OUTPUT)]),
        (
            "train a tokenizer",
            ["tools/quickstart_tokenizer.py", "--data_dir", str(OUTPUT), "--output_dir", str(OUTPUT)],
        ),
        ("pre-train a small Llama from scratch", ["run_finetune.py", "config/quickstart/pretrain_argument.json"]),
        ("fine-tune it with LoRA", ["run_finetune.py", "config/quickstart/lora_argument.json"]),
        ("merge the adapter into the base", merge),
        ("answer held-out prompts with the base", generate_command(BASE, "before.json")),
        ("answer them with the merged model", generate_command(MERGED, "after.json")),
    ]


def run_step(number: int, title: str, arguments: List[str]) -> float:
    """Show and run one command, its output going where ours goes; return seconds.

    Raises:
        QuickstartError: it ended with another exit code than 0.
    """
    shown = " ".join(["python"] + [shlex.quote(argument) for argument in arguments])
    print(f"\n=== {number}/{len(steps())} {title}\n$ {shown}", flush=True)
    start = time.monotonic()
    code = subprocess.call([sys.executable] + arguments, cwd=str(ROOT))
    if code != 0:
        raise QuickstartError(f"step {number} ({title}) ended with exit code {code}; its message is above.\n  {shown}")
    return time.monotonic() - start


def read_json(path: Path) -> Any:
    """The content of a JSON file that a step must have written.

    Raises:
        QuickstartError: not there, or not JSON.
    """
    try:
        return json.loads((ROOT / path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QuickstartError(f"{path} should have been written by an earlier step: {error}") from error


def read_rows(path: Path) -> List[Dict[str, str]]:
    """JSON lines that a step must have written; raises QuickstartError like `read_json`."""
    try:
        return [json.loads(line) for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise QuickstartError(f"{path} should have been written by an earlier step: {error}") from error


def choose_prompts(rows: List[Dict[str, str]], count: int = NUM_PROMPTS) -> List[Dict[str, str]]:
    """`count` short held-out functions, each of another module; the same ones for the same data."""
    chosen: Dict[str, Dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["src"].encode("utf-8")).hexdigest()):
        if len(row["src"]) <= 240 and "def __" not in row["src"]:
            chosen.setdefault(row["src"].split("\n")[0], row)
    return list(chosen.values())[:count]


def history(output_dir: Path) -> List[Dict[str, Any]]:
    """The log entries of a run: step, loss, eval_loss and more, in order."""
    return read_json(output_dir / "trainer_state.json")["log_history"]


def eval_losses(output_dir: Path, what: str) -> Tuple[float, float]:
    """Dev loss before the first step (from the log) and of the saved result.

    Raises:
        QuickstartError: it was not measured, or it did not fall.
    """
    start = [entry for entry in history(output_dir) if entry.get("step") == 0 and "eval_loss" in entry]
    results = read_json(output_dir / "all_results.json")
    if not start or "eval_loss" not in results:
        raise QuickstartError(f"{what}: {output_dir} has no dev loss from before the first step, or none from the end")
    first, last = start[0]["eval_loss"], results["eval_loss"]
    if not last < (1 - MIN_LOSS_DROP) * first:
        raise QuickstartError(
            f"{what}: the dev loss went from {first:.3f} to {last:.3f}; it must fall by {MIN_LOSS_DROP:.0%}"
        )
    return first, last


def check_merge(receipt: Dict[str, Any]) -> Dict[str, float]:
    """The two numbers of the merge receipt that matter here.

    Raises:
        QuickstartError: the merged model computes something else than base + adapter.
    """
    merge = {key: float(receipt[key]) for key in ("max_abs_logit_difference", "top1_agreement")}
    if not (
        merge["max_abs_logit_difference"] <= MAX_LOGIT_DIFFERENCE and merge["top1_agreement"] >= MIN_TOP1_AGREEMENT
    ):
        raise QuickstartError(
            f"the merged model differs from base + adapter: logits by up to {merge['max_abs_logit_difference']:.2e} "
            f"(allowed {MAX_LOGIT_DIFFERENCE:g}), same best token in {merge['top1_agreement']:.1%}"
        )
    return merge


def pair_generations() -> List[Dict[str, str]]:
    """Prompt, what a human wrote, what the model wrote before and after.

    Raises:
        QuickstartError: a prompt has no answer.
    """
    prompts, before, after = (read_rows(path) for path in (PROMPTS, OUTPUT / "before.json", OUTPUT / "after.json"))
    if not len(prompts) == len(before) == len(after) == NUM_PROMPTS:
        raise QuickstartError(f"{len(prompts)} prompts gave {len(before)} answers before and {len(after)} after")
    return [
        {"prompt": row["src"], "reference": row["tgt"], "before": old["output"], "after": new["output"]}
        for row, old, new in zip(prompts, before, after)
    ]


def summarise(seconds: Dict[str, float]) -> Dict[str, Any]:
    """Check what the steps left and gather it; raises QuickstartError where a check fails."""
    plan, results, pretrain_results = (
        read_json(path) for path in (LORA / "plan.json", LORA / "all_results.json", BASE / "all_results.json")
    )
    pretrain_first, pretrain_last = eval_losses(BASE, "pre-training")
    first, last = eval_losses(LORA, "LoRA fine-tuning")
    return {
        "initial_eval_loss": first,
        "final_eval_loss": last,
        "trainable_parameters": plan["trainable_parameters"],
        "total_parameters": plan["total_parameters"],
        "tokens_per_second": results["train_tokens_per_second"],
        "merge": check_merge(read_json(MERGED / "merge_receipt.json")),
        "generations": pair_generations(),
        "pretrain": {
            "initial_eval_loss": pretrain_first,
            "final_eval_loss": pretrain_last,
            "tokens_per_second": pretrain_results["train_tokens_per_second"],
        },
        "seconds": {
            **{title: round(spent, 1) for title, spent in seconds.items()},
            "total": round(sum(seconds.values()), 1),
        },
    }


def draw_losses(path: Path) -> None:
    """Train and dev loss of both runs, side by side, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for axis, folder, title in zip(
        axes, (BASE, LORA), ("pre-training, every token", "LoRA, documentation sentence only")
    ):
        entries = history(folder)
        last_step = max(entry["step"] for entry in entries)
        entries = entries + [{"step": last_step, "eval_loss": read_json(folder / "all_results.json")["eval_loss"]}]
        for key, label, style in (("loss", "train", "-"), ("eval_loss", "dev (modules never trained on)", "o--")):
            points = [(entry["step"], entry[key]) for entry in entries if key in entry]
            if points:
                axis.plot(*zip(*points), style, label=label)
        axis.set(title=title, xlabel="optimizer step", ylabel="loss (nats per token)")
        axis.legend()
    figure.tight_layout()
    figure.savefig(str(path), dpi=120)
    pyplot.close(figure)


def what_to_expect(answers: List[str]) -> str:
    """An honest word on the answers: two minutes of training teach how such sentences sound, hardly what to say."""
    distinct = len(set(answers))
    if distinct == 1:
        return (
            f"All {len(answers)} answers are the same sentence: it has learnt how documentation sounds, and not yet to "
            "read the code. That takes more text than four minutes allow; see below."
        )
    return f"{distinct} of {len(answers)} answers differ: expect the right form, and not yet the right meaning."


def tell(summary: Dict[str, Any]) -> str:
    """What happened and what to try next, in plain words."""
    share = summary["trainable_parameters"] / summary["total_parameters"]
    lines = ["", "=== what happened"]
    for generation in summary["generations"]:
        lines += ["", *("    " + line for line in generation["prompt"].split("\n"))]
        lines += [f"  a human wrote: {generation['reference']}"]
        lines += [f"  before:        {' '.join(generation['before'].split())}"]
        lines += [f"  after:         {' '.join(generation['after'].split())}"]
    pretrain = summary["pretrain"]
    lines += [
        "",
        f"A Llama of {summary['total_parameters']:,} weights (adapter included) was trained on this machine.",
        f"Pre-training on source code took its loss on unseen modules from {pretrain['initial_eval_loss']:.2f} to "
        f"{pretrain['final_eval_loss']:.2f} nats a token.",
        f"LoRA then trained {summary['trainable_parameters']:,} weights ({share:.1%}) to write the first sentence of a "
        f"docstring: {summary['initial_eval_loss']:.2f} -> {summary['final_eval_loss']:.2f}, at "
        f"{summary['tokens_per_second']:,.0f} tokens a second.",
        f"The merged model gives the logits of base + adapter to {summary['merge']['max_abs_logit_difference']:.1e}; "
        f"the best token is the same in {summary['merge']['top1_agreement']:.1%} of all positions.",
        what_to_expect([generation["after"] for generation in summary["generations"]]),
        "",
        f"Time: {summary['seconds']['total']:.0f} s. Numbers: {OUTPUT}/summary.json. Curves: {OUTPUT}/loss.png. "
        f"Merged model: {MERGED}/",
        "",
        "=== what to try next",
        "Ask it something:",
        f'  python -m paddle_sft.cli.main generate --model_name_or_path {MERGED} --prompt "def read(self, size=-1):"',
        "Train longer (the loss goes on falling):",
        "  python run_finetune.py config/quickstart/pretrain_argument.json --max_steps 3000",
        "  python run_finetune.py config/quickstart/lora_argument.json --max_steps 1500",
        "Look an argument up:",
        "  python -m paddle_sft.cli.main explain lora_rank",
        'Your own data: a folder with train.json and dev.json, one {"src": "...", "tgt": "..."} a line:',
        "  python run_finetune.py config/quickstart/lora_argument.json --dataset_name_or_path FOLDER",
        "A real model: put its folder or name into model_name_or_path:",
        "  python run_finetune.py config/llama/lora_argument.json --model_name_or_path MODEL "
        "--dataset_name_or_path FOLDER",
    ]
    return "\n".join(lines)


def run_all() -> Dict[str, Any]:
    """Run every step, write the summary and the curve, return the summary; raises QuickstartError."""
    shutil.rmtree(str(ROOT / OUTPUT), ignore_errors=True)  # left-overs of an earlier run must not pass for this one's
    seconds: Dict[str, float] = {}
    for number, (title, arguments) in enumerate(steps(), 1):
        seconds[title] = run_step(number, title, arguments)
        if number == 1:
            prompts = choose_prompts(read_rows(OUTPUT / "data" / "dev.json"))
            text = "".join(json.dumps(row) + "\n" for row in prompts)
            (ROOT / PROMPTS).write_text(text, encoding="utf-8")
    summary = summarise(seconds)
    (ROOT / OUTPUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    draw_losses(ROOT / OUTPUT / "loss.png")
    return summary


def main(argv: Optional[List[str]] = None) -> int:
    """Returns 0 when every step and every check passed, 1 otherwise."""
    if sys.argv[1:] if argv is None else argv:
        print(__doc__)
        return 0
    try:
        print(tell(run_all()))
    except QuickstartError as error:
        print(f"\nquickstart failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
