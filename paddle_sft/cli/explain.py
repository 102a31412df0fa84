"""paddle-sft explain: what a key means, from the same declarations that read it."""

from __future__ import annotations

import json
import sys
from difflib import get_close_matches
from typing import Dict, List, Optional

from paddle_sft.arguments.keys import COMMANDS, Catalogue, command_catalogue, finetune_catalogue
from paddle_sft.arguments.schema import finetune_schema
from paddle_sft.arguments.usage import explain_key, explain_translation, usage

FIRST = "run_finetune.py"
_USAGE = """usage: paddle-sft explain [KEY ...] | --schema
  KEY       all about a key, under any of its spellings
  --schema  the JSON Schema of an argument file
  nothing   every key by group"""


def main(argv: Optional[List[str]] = None) -> int:
    """Explain each key of argv; without one, list them all. 2 when a key does not exist."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "-h" in words or "--help" in words:
        print(_USAGE)
        return 0
    if words == ["--schema"]:
        print(json.dumps(finetune_schema(), indent=2, ensure_ascii=False))
        return 0
    if not words:
        print(usage(finetune_catalogue(), "run_finetune.py CONFIG.json [--key value ...]"))
        return 0
    failed = False
    for word in words:
        name = word[2:] if word.startswith("--") else word
        texts = _explain(name)
        if texts:
            print("\n".join(texts))
        else:
            failed = True
            print(_no_such(name), file=sys.stderr)
    return 2 if failed else 0


def _catalogues() -> Dict[str, Catalogue]:
    return {FIRST: finetune_catalogue(), **{command: command_catalogue(command) for command in COMMANDS}}


def _explain(name: str) -> List[str]:
    """What the commands say about a spelling; empty when none knows it."""
    texts = []
    for command, catalogue in _catalogues().items():
        key = catalogue.find(name)
        heading = [] if command == FIRST else [f"In {command}:"]
        if key is not None:
            texts += [*heading, explain_key(key, catalogue)]
        elif name in catalogue.translations:
            texts += [*heading, explain_translation(name, catalogue.translations[name])]
    return texts


def _no_such(name: str) -> str:
    spellings = sorted({item for one in _catalogues().values() for item in one.spellings()})
    near = get_close_matches(name.replace("-", "_"), spellings, n=3)
    hint = f"; near names: {', '.join(near)}" if near else "; paddle-sft explain alone lists all keys"
    return f"there is no argument {name!r}{hint}"


if __name__ == "__main__":
    sys.exit(main())
