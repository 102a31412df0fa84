"""paddle-sft compare: the same training run once for each adapter method, and a table of what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import paddle_sft
from paddle_sft.arguments.adapter_methods import METHODS
from paddle_sft.arguments.files import SUFFIXES, read_file
from paddle_sft.arguments.keys import TRANSLATIONS, finetune_catalogue
from paddle_sft.cli.compare_table import BASE, Row, markdown, plot, table
from paddle_sft.core.atomic import require_writable, write_json
from paddle_sft.core.catalogue import choose
from paddle_sft.core.errors import ArgumentError

EXIT_INCOMPLETE = 1
FULL = "full"
"""Not a method: every weight is trained."""

USAGE = f"""usage: paddle-sft compare CONFIG.json --adapters lora,dora,... [--output FOLDER] [--key value ...]

Trains as CONFIG.json says, once for each method ({FULL}: every weight), one after the other, each in a process of its
own from the same base, on the same data in the same order; prints a table and writes comparison.json, comparison.md and
comparison.png. --key value holds for all methods, --METHOD.key value for one. In CONFIG.json, the keys of a method and
learning_rate hold for the method that CONFIG.json trains; for the others each method's own defaults do.
Exit code 0: all were trained, 1: some could not be (the table says why), 2: the arguments can't work.

methods: {", ".join([*METHODS, FULL])}"""

_ALWAYS = {
    "do_train": True, "do_eval": True, "eval_at_start": True, "evaluation_strategy": "no", "save_strategy": "no",
    "overwrite_output_dir": True, "disable_tqdm": True, "plot_loss": False, "load_best_model_at_end": False,
}  # fmt: skip
_IDLE = (
    "do_predict", "eval_steps", "greater_is_better", "metric_for_best_model", "resume_from_checkpoint", "save_steps",
    "save_total_limit",
)  # fmt: skip
"""Keys that say nothing of a run that evaluates at its two ends and keeps its result alone."""


class Request(NamedTuple):
    """What is compared."""

    config: str
    methods: List[str]
    output: Path
    words: List[str]
    """--key value ... for all."""
    own: Dict[str, Dict[str, str]]
    """Method -> key -> value."""


def main(argv: Optional[List[str]] = None) -> int:
    """Compare; 0, or 1 when a method could not be trained."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or "-h" in words or "--help" in words:
        print(USAGE)
        return 0 if words else 2
    request = parse(words)
    require_writable(request.output)
    pairs = dict(read_file(request.config))
    rows: List[Row] = []
    for number, method in enumerate(request.methods, start=1):
        print(f"=== {number}/{len(request.methods)} {method}", flush=True)
        rows += train_one(request, pairs, method)
        write_results(request, rows)
    print(table(rows))
    print(f"written: {', '.join(str(request.output / name) for name in NAMES)}")
    return EXIT_INCOMPLETE if any(row.problem for row in rows) else 0


NAMES = ("comparison.json", "comparison.md", "comparison.png")


def parse(words: Sequence[str]) -> Request:
    """
    Raises:
        ArgumentError: no file, no methods, an unknown one, a value that is missing.
    """
    if not words[0].endswith(SUFFIXES):
        raise ArgumentError(f"{words[0]!r} is no argument file ({', '.join(SUFFIXES)}); it comes first")
    options: List[Tuple[str, List[str]]] = []
    for word in words[1:]:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            options.append((key, [value] if equals else []))
        elif options:
            options[-1][1].append(word)
        else:
            raise ArgumentError(f"{word!r} stands before any --key; write CONFIG.json --adapters lora,dora")
    methods, output, rest, own = "", "outputs/comparison", [], {}
    for key, values in options:
        method, dot, inner = key.partition(".")
        if key in ("adapters", "output", "output_dir"):
            if not values:
                raise ArgumentError(f"--{key} needs a value")
            methods, output = (",".join(values), output) if key == "adapters" else (methods, values[0])
        elif dot and method in (*METHODS, FULL):
            own.setdefault(method, {})[inner] = " ".join(values) or "true"
        else:
            rest += [f"--{key}", *values]
    chosen = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not chosen:
        raise ArgumentError("--adapters is missing; name the methods to compare, such as --adapters lora,dora,ia3")
    for name in (*chosen, *own):
        choose("adapters", name, {**METHODS, FULL: None})
    idle = [name for name in own if name not in chosen]
    if idle:
        raise ArgumentError(
            f"--{idle[0]}.... is set, and {idle[0]} is not among --adapters; add it or leave the key out"
        )
    return Request(words[0], chosen, Path(output), rest, own)


def arguments_for(pairs: Dict[str, Any], method: str, own: Dict[str, str], output: Path) -> Dict[str, Any]:
    """The argument file of one method: what CONFIG.json says, without the keys of other methods."""
    catalogue = finetune_catalogue()
    spelled = {key: catalogue.aliases.get(key, key) for key in pairs}
    switches = {one.switch: name for name, one in METHODS.items() if one.switch}
    asked = {name for key, name in switches.items() if any(spelled[k] == key and pairs[k] is True for k in pairs)}
    asked |= {str(pairs[key]) for key in pairs if spelled[key] == "adapter"}
    asked |= {str(pairs[key]) for key in pairs if key == "finetuning_type"}
    refined = {METHODS[name].refines for name in asked if name in METHODS}
    is_of_config = method in asked - refined or (method == FULL and not asked - {FULL})
    of_methods = {key for one in METHODS.values() for key in one.keys}
    dropped = {
        *_IDLE,
        *switches,
        "adapter",
        "lora_path",
        *(key for key in TRANSLATIONS if TRANSLATIONS[key].target == "lora"),
    }
    dropped |= set() if is_of_config else {*of_methods, "learning_rate"}
    if method not in METHODS or not METHODS[method].on_layers:
        dropped |= {"lora_target_modules", "lora_modules_to_save"}
    kept = {key: value for key, value in pairs.items() if spelled[key] not in dropped}
    always = {catalogue.aliases.get(key, key): value for key, value in _ALWAYS.items()}
    kept = {key: value for key, value in kept.items() if spelled[key] not in {*always, "output_dir", *own}}
    chosen = {} if method == FULL else {"adapter": method}
    return {**kept, **always, **chosen, "output_dir": str(output), **{key: read_word(own[key]) for key in own}}


def read_word(word: str) -> Any:
    """A word of the command line as a value of JSON; text where it is none."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def train_one(request: Request, pairs: Dict[str, Any], method: str) -> List[Row]:
    """Train one method in a process of its own; its row, and before the first the base's."""
    folder = request.output / method
    file = request.output / f"{method}.json"
    write_json(file, arguments_for(pairs, method, request.own.get(method, {}), folder))
    entry = str(Path(paddle_sft.__file__).with_name("__main__.py"))  # works uninstalled, whatever the working directory
    command = [sys.executable, entry, "train", str(file), *request.words]
    start = time.monotonic()
    with open(request.output / f"{method}.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - start
    if process.returncode:
        lines = (request.output / f"{method}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "")
        print(f"{method} could not be trained: {said}", flush=True)
        return [Row(method, problem=said.replace("error: ", "", 1))]
    unit = 1024 if sys.platform != "darwin" else 1  # Linux counts kilobytes, macOS bytes
    row = read_row(method, folder, seconds, usage.ru_maxrss * unit)
    print(table([row]).splitlines()[-1], flush=True)
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    first = next((entry["eval_loss"] for entry in history if "eval_loss" in entry), None)
    is_first = method == request.methods[0]
    return [Row(BASE, eval_loss=first), row] if is_first and first is not None else [row]


def read_row(method: str, folder: Path, seconds: float, peak: int) -> Row:
    """What a finished run says of itself."""
    plan, results, trained = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("plan.json", "eval_results.json", "train_results.json")
    )
    arguments = json.loads((folder / "arguments.json").read_text(encoding="utf-8"))
    weights = list(folder.glob("adapter.safetensors")) or list(folder.glob("model*.safetensors"))
    return Row(
        method,
        eval_loss=results["eval_loss"],
        trainable=plan["trainable_parameters"],
        total=plan["total_parameters"],
        num_bytes=sum(path.stat().st_size for path in weights),
        train_seconds=trained["train_runtime"],
        process_seconds=round(seconds, 1),
        peak_bytes=peak,
        learning_rate=arguments["learning_rate"],
        num_steps=trained["train_steps"],
    )


def write_results(request: Request, rows: Sequence[Row]) -> None:
    """The three files; after every method, so that a run that is stopped leaves what it knows."""
    write_json(request.output / NAMES[0], {"config": request.config, "rows": [row._asdict() for row in rows]})
    (request.output / NAMES[1]).write_text(markdown(rows), encoding="utf-8")
    plot(request.output / NAMES[2], rows, request.config)
