"""Measure how fast data becomes samples: beside the tokenizer alone, at a second start, and how much memory it takes.

    python tools/benchmark_tokenise.py                                   # 100,000 samples of 100 tokens, 3 rounds
    python tools/benchmark_tokenise.py --num_samples 2000 --rounds 1     # a look, in seconds
    python tools/benchmark_tokenise.py --template chatml                 # conversations as chatml writes them
    python tools/benchmark_tokenise.py --gigabytes 5                     # memory while a file of 5 GB is read (lazy)

The text is the source code of the Python that runs this, and so is what the tokenizer (byte-level BPE of 16,000
tokens) is trained on. In each round the tokenizer alone, in its fastest way over all cores, and the suite take turns:
other work on the machine hits both. CPU seconds are those of all processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from paddle_sft.arguments.data import DataArguments  # noqa: E402
from paddle_sft.core.threads import num_cores  # noqa: E402
from paddle_sft.data.build import build_samples  # noqa: E402
from paddle_sft.data.stream import build_stream  # noqa: E402
from paddle_sft.models.tokenizers import load_tokenizer  # noqa: E402

VOCAB_SIZE = 16_000
MOST_CHARACTERS = 4_000_000
"""Of source code: enough for the vocabulary, read in a second."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BATCH = 1000
"""Texts of a call to the tokenizer alone; more are no faster."""
SHARE_OF_PROMPT = 0.4
READ = "--read_stream"


class Seconds(NamedTuple):
    """What a piece of work took."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> Tuple[Any, Seconds]:
    """The work's result and what it took, in this process and in those that it started and that have ended."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    result = work()
    return result, Seconds(time.perf_counter() - wall, sum(os.times()[:4]) - cpu)


def source_code() -> str:
    """Python's standard library, cut off when it is enough."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts, size = [], 0
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts or size > MOST_CHARACTERS:
            continue
        parts.append(path.read_text(encoding="utf-8", errors="ignore"))
        size += len(parts[-1])
    return "".join(parts)[:MOST_CHARACTERS]


def make_tokenizer(folder: Path, text: str) -> Path:
    """Train the tokenizer, and write its folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[0], "pad_token": SPECIAL[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def rows_of(tokenizer: Any, text: str, num_tokens: int, seed: int) -> Iterator[Dict[str, str]]:
    """Endlessly: stretches of the text of `num_tokens` tokens, as prompt and answer."""
    ids = tokenizer(text[: MOST_CHARACTERS // 2], add_special_tokens=False)["input_ids"]
    draw = np.random.default_rng(seed)
    cut = int(num_tokens * SHARE_OF_PROMPT)
    while True:
        start = int(draw.integers(0, len(ids) - num_tokens))
        prompt = tokenizer.decode(ids[start : start + cut])
        answer = tokenizer.decode(ids[start + cut : start + num_tokens - 1])  # the end token makes it num_tokens
        if answer.strip():
            yield {"src": prompt, "tgt": answer}


def arguments_of(data: Path, kept: str, template: str, **changes: Any) -> DataArguments:
    return DataArguments(dataset_name_or_path=str(data), data_cache_dir=kept, template=template, **changes)


def measure_speed(folder: Path, num_samples: int, num_tokens: int, rounds: int, template: str, seed: int) -> None:
    """Print a table: a row for each round, and the ratios of the medians."""
    text = source_code()
    model = make_tokenizer(folder / "tokenizer", text)
    tokenizer = load_tokenizer(model)
    rows = [row for row, _ in zip(rows_of(tokenizer, text, num_tokens, seed), range(num_samples))]
    data = folder / "train.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    texts = [row[key] for row in rows for key in ("src", "tgt")]

    def alone() -> int:
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return sum(sum(map(len, tokenizer(batch, add_special_tokens=False)["input_ids"])) for batch in batches)

    def suite(kept: str) -> Any:
        return build_samples(arguments_of(data, kept, template), tokenizer, "train", "sft", False, model)

    print(f"{num_samples:,} samples of about {num_tokens} tokens, template {template}, {num_cores()} cores")
    print("| tokenizer alone: s (CPU s) | first start: s (CPU s) | second start: s | speed beside the tokenizer's |")
    print("|---|---|---|---|")
    ratios = []
    for number in range(rounds):
        _, own = timed(alone)
        built, first = timed(lambda: suite(str(folder / f"kept{number}")))  # noqa: B023
        again, second = timed(lambda: suite(str(folder / f"kept{number}")))  # noqa: B023
        assert again.samples.fingerprint() == built.samples.fingerprint() and len(built) == num_samples
        ratios.append(own.wall / first.wall)
        cells = [f"{own.wall:.2f} ({own.cpu:.2f})", f"{first.wall:.2f} ({first.cpu:.2f})", f"{second.wall:.2f}"]
        print("| " + " | ".join([*cells, f"{ratios[-1]:.0%}"]) + " |", flush=True)
    print(f"median: {np.median(ratios):.0%}; {len(built.samples.ids):,} tokens")


def measure_memory(folder: Path, gigabytes: float, num_tokens: int, template: str, seed: int) -> None:
    """Write a large file, and read all of it as a stream in a process of its own."""
    text = source_code()
    model = make_tokenizer(folder / "tokenizer", text)
    endless = rows_of(load_tokenizer(model), text, num_tokens, seed)
    lines = "".join(json.dumps(row) + "\n" for row, _ in zip(endless, range(20_000))).encode("utf-8")
    data = folder / "train.json"
    with open(data, "wb") as file:
        while file.tell() < gigabytes * 1e9:
            file.write(lines)
    print(f"{data.stat().st_size / 1e9:.2f} GB", flush=True)
    words = [sys.executable, __file__, READ, str(data), "--folder", str(model), "--template", template]
    subprocess.run(words, check=True)


def read_stream(data: Path, model: Path, template: str) -> None:
    """Read all samples once; print how many, how long it took, and the most memory of this process and its workers."""
    import resource

    def read() -> Tuple[int, int]:
        num_samples = num_tokens = 0
        with build_stream(arguments_of(data, "none", template), load_tokenizer(model), "sft", model) as stream:
            for sample in stream.source_samples(0, 0):
                num_samples += 1
                num_tokens += len(sample)
        return num_samples, num_tokens

    (num_samples, num_tokens), seconds = timed(read)
    print(f"{num_samples:,} samples, {num_tokens:,} tokens in {seconds.wall:,.0f} s ({seconds.cpu:,.0f} CPU s)")
    own = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii")).group(1)
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak memory: {int(own) / 1e3:,.0f} MB; of the largest worker: {worker / 1e3:,.0f} MB")


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--num_samples", type=int, default=100_000)
    parser.add_argument("--num_tokens", type=int, default=100, help="of a sample")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--template", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gigabytes", type=float, help="measure memory with a file of this size instead")
    parser.add_argument(READ, metavar="FILE", help="read a file as a stream with the tokenizer of --folder")
    parser.add_argument("--folder", help="a tokenizer's folder, for --read_stream")
    given = parser.parse_args(argv)
    if given.read_stream:
        read_stream(Path(given.read_stream), Path(given.folder), given.template)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if given.gigabytes:
            measure_memory(Path(folder), given.gigabytes, given.num_tokens, given.template, given.seed)
        else:
            measure_speed(Path(folder), given.num_samples, given.num_tokens, given.rounds, given.template, given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
