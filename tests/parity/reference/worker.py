"""Answers questions about transformers, PEFT and torch: one JSON line in, one JSON line out, until the input ends.

Runs in the reference environment and never imports paddle or this project. One process for a whole test session,
because importing torch and transformers takes seconds. Arrays travel as safetensors files.
"""

from __future__ import annotations

import json
import sys
import traceback

answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not stand between the answers

import classifiers  # noqa: E402
import networks  # noqa: E402
import optimizers  # noqa: E402
import peft_folders  # noqa: E402
import peft_lora  # noqa: E402
import peft_methods  # noqa: E402
import prompting  # noqa: E402
import quantising  # noqa: E402
import tokenizing  # noqa: E402
import training  # noqa: E402

JOBS = {
    job.__name__: job
    for job in (
        networks.versions,
        networks.make_model,
        networks.logits,
        networks.gradients,
        networks.samples_alone,
        networks.logits_with_dropout,
        networks.default_config,
        networks.rotary_tables,
        networks.adapter_logits,
        networks.token_ids,
        peft_folders.combined_logits,
        peft_folders.make_peft_folder,
        peft_folders.peft_folder_logits,
        classifiers.make_classifier,
        classifiers.classify,
        tokenizing.tokenized,
        tokenizing.with_new_tokens,
        tokenizing.write_again,
        tokenizing.tokenizer_classes,
        training.train,
        prompting.train_prompt,
        optimizers.adafactor,
        optimizers.learning_rates,
        peft_lora.train_lora,
        peft_methods.lokr_factors,
        peft_methods.train_adapter,
        quantising.quantise_weights,
    )
}


def answer(question: dict) -> dict:
    """{"answer": ...}, or {"error": traceback}: a failed question must not end the session."""
    try:
        return {"answer": JOBS[question["job"]](**question["arguments"])}
    except Exception:  # whatever it is, the asking test shows it
        return {"error": traceback.format_exc()}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
