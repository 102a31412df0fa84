"""paddle-sft generate: answers to prompts, from a model with or without an adapter."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from paddle_sft.arguments.hub import hub_of
from paddle_sft.arguments.load import load_generate_arguments
from paddle_sft.cli.paddle_ready import paddle_ready
from paddle_sft.core.atomic import require_writable
from paddle_sft.core.errors import ArgumentError


def main(argv: Optional[List[str]] = None) -> int:
    """Answer every prompt, print the answers, write them if asked to; return 0."""
    arguments = load_generate_arguments(sys.argv[1:] if argv is None else argv)
    prompts = _prompts(arguments)
    if arguments.output_file:
        require_writable(Path(arguments.output_file).parent)
    device = paddle_ready(arguments.device, sys.stderr)
    import paddle

    from paddle_sft.adapters.state import load_adapter
    from paddle_sft.cli.report import write_lines
    from paddle_sft.cli.run_quant import as_trained
    from paddle_sft.cli.run_tokens import tokenizer_with
    from paddle_sft.generate.generation import Sampling, generate_texts, prepare
    from paddle_sft.models.device import parameter_dtype
    from paddle_sft.models.hub import load_model
    from paddle_sft.models.quantised import schemes_of
    from paddle_sft.models.remote import local_adapter, local_folder
    from paddle_sft.models.stored_schemes import summary
    from paddle_sft.models.tokenizers import load_tokenizer

    paddle.seed(arguments.seed)
    folder = local_folder(arguments.model_name_or_path, hub_of(arguments))
    adapter = local_adapter(arguments.lora_path, hub_of(arguments)) if arguments.lora_path else None
    loaded = load_model(folder, parameter_dtype(arguments.dtype, device, "", "")[0], choice=as_trained(adapter))
    if schemes_of(loaded.model):
        print(f"linear layers: {summary(schemes_of(loaded.model))}", file=sys.stderr, flush=True)
    tokenizer_folder = folder
    if adapter:
        saved = load_adapter(loaded.model, adapter, allow_other_base=arguments.allow_other_base)
        tokenizer_folder = tokenizer_with(saved, folder)
    sampling = Sampling(
        arguments.max_new_tokens,
        arguments.do_sample,
        arguments.top_k,
        arguments.top_p,
        arguments.temperature,
        arguments.repetition_penalty,
    )
    tokenizer = load_tokenizer(tokenizer_folder)
    written = prepare(prompts, tokenizer, arguments.template, tokenizer_folder)
    answers = generate_texts(loaded.model, tokenizer, written, sampling, arguments.batch_size)
    rows = [{"src": prompt, "output": output} for prompt, output in zip(prompts, answers)]
    if arguments.output_file:
        write_lines(Path(arguments.output_file), rows)
    _show(rows)
    return 0


def _prompts(arguments: Any) -> List[Any]:
    if arguments.prompt_file:
        from paddle_sft.data.source import read_rows

        rows = list(read_rows([Path(arguments.prompt_file)]))
        wrong = [place for row, place in rows if not _is_prompt(row.get("src"))]
        if wrong:
            raise ArgumentError(
                f"{wrong[0]}: src must be a text or a list of texts; each line of prompt_file is an object with src"
            )
        return [row["src"] for row, _ in rows]
    prompts = arguments.prompt
    return [prompts] if isinstance(prompts, str) else list(prompts)


def _is_prompt(src: Any) -> bool:
    return isinstance(src, str) or (isinstance(src, list) and bool(src) and all(isinstance(text, str) for text in src))


def _show(rows: List[Dict[str, Any]]) -> None:
    for row in rows:
        print(json.dumps(row["src"], ensure_ascii=False))
        print(f"  -> {row['output']}")
