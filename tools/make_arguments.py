"""Write what follows from the argument declarations: upstream_table.py, docs/arguments*.md and config/schema.json.

    python tools/make_arguments.py            # write all
    python tools/make_arguments.py --check    # write nothing; exit 1 and name what is out of date

Only the upstream table needs paddlenlp; with --without-upstream the committed table is used.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import sys
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
UPSTREAM_FILE = "paddle_sft/arguments/upstream_table.py"

_HEAD = '''"""PaddleNLP {version}'s TrainingArguments. Written by tools/make_arguments.py; don't edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

VERSION = "{version}"


@dataclass(frozen=True)
class UpstreamKey:
    """One key as PaddleNLP declares it, and what we do with it (see upstream_policy)."""

    hint: Any
    default: Any
    status: str
    """ours, passed on, kept anyway, or refused (accepted at its default only)."""
    choices: Tuple[str, ...] = ()


UPSTREAM: Dict[str, UpstreamKey] = {{
'''


def upstream_table() -> str:
    """The text of upstream_table.py for the installed PaddleNLP."""
    import paddlenlp
    from paddlenlp.trainer import TrainingArguments
    from paddlenlp.trainer.trainer_utils import OptimizerNames, SchedulerType

    # declared as plain text there and turned into these in __post_init__
    late = {"lr_scheduler_type": SchedulerType, "optim": OptimizerNames}
    lines = []
    for field in dataclasses.fields(TrainingArguments):
        default = None if field.default is dataclasses.MISSING else field.default
        kind = late.get(field.name, field.type)
        choices = tuple(item.value for item in kind) if isinstance(kind, enum.EnumMeta) else ()
        hint = "str" if choices else _hint(kind, default)
        parts = [hint, _literal(default), f'"{_status(field.name)}"']
        if choices:
            parts.append("(" + ", ".join(f'"{choice}"' for choice in choices) + ")")
        line = f'    "{field.name}": UpstreamKey({", ".join(parts)}),'
        if len(line) > 120:
            line = f'    "{field.name}": UpstreamKey(\n        {", ".join(parts)}\n    ),'
        lines.append(line)
    return _HEAD.format(version=paddlenlp.__version__) + "\n".join(lines) + "\n}\n"


def _hint(kind: typing.Any, default: typing.Any) -> str:
    """A type as source text; a None default makes it Optional, which PaddleNLP often leaves out."""
    if isinstance(kind, type):
        return f"Optional[{kind.__name__}]" if default is None else kind.__name__
    return str(kind).replace("typing.", "")


def _literal(value: typing.Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _status(name: str) -> str:
    """Which of the four ways a key goes."""
    from paddle_sft.arguments import upstream_policy
    from paddle_sft.arguments.owners import OWNERS

    ours = {field.name for owner in OWNERS.values() for field in dataclasses.fields(owner)}
    ours |= {a for owner in OWNERS.values() for field in dataclasses.fields(owner) for a in field.metadata["aliases"]}
    found = [
        status
        for status, names in (
            ("ours", ours),
            ("passed on", upstream_policy.PASSED_ON),
            ("kept anyway", upstream_policy.KEPT_ANYWAY),
            ("refused", upstream_policy.REFUSED),
        )
        if name in names
    ]
    if len(found) != 1:
        raise SystemExit(f"{name} must be in exactly one table of upstream_policy or be ours, found {found or 'none'}")
    return found[0]


def written_files(with_upstream: bool) -> typing.Iterator[typing.Tuple[str, str]]:
    """(path below the repository, text) of everything this tool writes; the docs need the table on disk first."""
    if with_upstream:
        yield UPSTREAM_FILE, upstream_table()
    from paddle_sft.arguments.document import render_document
    from paddle_sft.arguments.schema import finetune_schema

    yield "docs/arguments.md", render_document("en")
    yield "docs/arguments_zh.md", render_document("zh")
    yield "config/schema.json", json.dumps(finetune_schema(), indent=2, ensure_ascii=False) + "\n"


def main(argv: typing.Optional[list] = None) -> int:
    """Write the files, or with --check compare them; 1 when one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a file is out of date")
    parser.add_argument("--without-upstream", action="store_true", help="leave the upstream table as it is")
    options = parser.parse_args(argv)
    stale = []
    for name, text in written_files(not options.without_upstream):
        path = ROOT / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    print(("out of date: " if options.check else "written: ") + (", ".join(stale) or "nothing"))
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
