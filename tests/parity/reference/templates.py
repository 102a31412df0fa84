"""What transformers makes of conversations: the ids of apply_chat_template, and which of them are the assistant's.

Asked by itself (one JSON question on stdin, one answer on stdout), because it needs neither torch nor a model.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, List


def chat_ids(
    folder: str, templates: Dict[str, str], dialogues: Dict[str, List[List[dict]]]
) -> Dict[str, List[Dict[str, Any]]]:
    """Name of a template -> for each of its dialogues the ids, whether each is the assistant's, and the prompt's ids
    (all but the last message, with the generation prompt)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: Dict[str, List[Dict[str, Any]]] = {}
    for name, source in templates.items():
        found[name] = []
        for messages in dialogues[name]:
            whole = tokenizer.apply_chat_template(
                messages, chat_template=source, return_dict=True, return_assistant_tokens_mask="generation" in source
            )
            prompt = tokenizer.apply_chat_template(
                messages[:-1], chat_template=source, return_dict=True, add_generation_prompt=True
            )
            answer = {"ids": whole["input_ids"], "prompt": prompt["input_ids"], "trained": whole.get("assistant_masks")}
            found[name].append(answer)
    return found


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not stand in the answer
    json.dump(chat_ids(**json.load(sys.stdin)), answers)
