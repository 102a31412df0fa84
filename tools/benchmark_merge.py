"""Peak memory of a merge: makes a Llama of random weights in shards and a LoRA adapter, merges, and prints the peak.

    python tools/benchmark_merge.py --hidden 1024 --layers 16 --vocabulary 32000

The peak is that of the whole merge process, its imports and its check included; "imports" is a process that only
imports what a merge imports.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List, Optional

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = "import paddle, paddlenlp.transformers, paddlenlp.trainer, paddle_sft.export.merge"
MIB = 1 << 20


def make_folders(root: Path, hidden: int, layers: int, vocabulary: int, shard: str) -> None:
    """root/base: a Llama in Hugging Face's layout with a tokenizer; root/adapter: LoRA of rank 8 on all linears."""
    import paddle

    from paddle_sft.adapters.attach import attach
    from paddle_sft.adapters.base import adapted_linears
    from paddle_sft.adapters.lora.config import LoRAConfig
    from paddle_sft.adapters.state import save_adapter
    from paddle_sft.models.hub import build_from_scratch
    from paddle_sft.models.writer import write_model

    sys.path.insert(0, str(ROOT / "tools"))
    from quickstart_tokenizer import train_tokenizer, write_tokenizer

    lines = (f"line {number} of some text, {number * 7 % 11} and {number * 13 % 17}" for number in range(2000))
    write_tokenizer(train_tokenizer(lines, 300), root / "base")
    config = {
        "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": hidden * 11 // 4,
        "num_hidden_layers": layers, "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip
    model = build_from_scratch(config, "float32", seed=0)
    write_model(root / "base", model, "hf", shard)
    adapter = attach(model, "lora", LoRAConfig(lora_rank=8, lora_alpha=16.0), None)
    for layer in adapted_linears(model).values():
        layer.delta.lora_b.set_value(0.001 * paddle.randn(layer.delta.lora_b.shape))
    (root / "adapter").mkdir()
    save_adapter(root / "adapter", model, "lora", adapter)


def peak_of(command: List[str]) -> int:
    """Peak resident bytes of a command, run alone in a helper process so that no other child counts.

    Raises:
        SystemExit: the command failed.
    """
    helper = (
        "import json, resource, subprocess, sys\n"
        "code = subprocess.call(json.loads(sys.argv[1]), stdout=sys.stderr)\n"
        "print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))"
    )
    done = subprocess.run([sys.executable, "-c", helper, json.dumps(command)], stdout=subprocess.PIPE, cwd=str(ROOT))
    code, kilobytes = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return kilobytes * 1024


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--shard", default="200MB")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make = multiprocessing.get_context("spawn").Process(  # its memory must not count
            target=make_folders,
            args=(root, arguments.hidden, arguments.layers, arguments.vocabulary, arguments.shard),
        )
        make.start()
        make.join()
        sizes = [path.stat().st_size for path in (root / "base").glob("*.safetensors")]
        merge = ["merge_lora_params.py", "--model_name_or_path", str(root / "base"), "--output_path", str(root / "out")]
        peak = peak_of([sys.executable, *merge, "--lora_path", str(root / "adapter")])
        imports = peak_of([sys.executable, "-c", IMPORTS])
    print(f"weights {sum(sizes) / MIB:,.0f} MiB in {len(sizes)} shards, largest shard {max(sizes) / MIB:,.0f} MiB")
    print(f"peak of the merge {peak / MIB:,.0f} MiB, of its imports alone {imports / MIB:,.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
