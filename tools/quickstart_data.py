"""Quickstart data: what a Python function looks like -> the sentence a human wrote about it.

Read from the standard library installed on this machine with `ast` alone: no module is imported and none of its code
runs. Two data sets come out, with the same split:

    DIR/data/train.json, dev.json          one {"src": ..., "tgt": ...} a line, for fine-tuning
    DIR/pretrain/train.json, dev.json      one {"text": ...} a line, source code with its docstrings, for pre-training

A module is in train or in dev, never in both, decided by a hash of its name. The same Python version gives the same
bytes.

    python tools/quickstart_data.py --output_dir outputs/quickstart
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import sys
import sysconfig
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple, Union

DEV_PERCENT = 10
"""Share of modules (not of pairs) that is held out."""
MAX_SIGNATURE_CHARACTERS = 160
MAX_CONTEXT_CHARACTERS = 120
"""Body lines shown to the model stop here, so that a source stays near 60 tokens."""
MIN_WORDS, MAX_WORDS = 3, 24
MAX_SENTENCE_CHARACTERS = 160
MAX_TEXT_CHARACTERS = 500
"""A longer definition is cut at a line end for pre-training, so that no single one takes over."""
SHORT_LINE = 55
"""Writers wrap at about 72 columns; a line this short was ended on purpose."""
MIN_DEV_PAIRS = 100
"""Fewer than this, and ten times as many for train, means that the library carries no docstrings."""
MAX_DEV_ROWS = 200
"""Dev is cut to this many rows: evaluation runs several times, and 200 sentences (3,000 tokens) give a steady loss."""

SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "encodings",
    "pydoc_data",
    "_bundled",
}
"""Foreign packages, tests, and generated tables."""
SKIPPED_FOLDER_STARTS = ("__pycache__", "config-", "lib-dynload", "_sysconfigdata")

Definition = Union[ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef]
ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "cf.", "vs.", "resp.", "incl.", "approx.", "sec.", "no.", "fig.", "dr.", "mr.")
SENTENCE_END = re.compile(r"[.!?](?=[\"')\]]*(?:\s|$))[\"')\]]*")
SIGNATURE_LINE = re.compile(r"^[\w.]+ ?\([^)]*\)\s*(?:(?:->|=>|--?|=)\s*\S.*)?$")
SIGNATURE_START = re.compile(r"^(?:[\w.]+, ?)*[\w.]+ ?\([^)]*\)\s*(?:->|=>)\s*")
NOISE = re.compile(r">>>|::|: [A-Z]|\.\.\.|[|{}<>=]{2}|--|\bXXX\b|\bTODO\b|\bFIXME\b|__\w+__ *=|https?:")


@dataclass(frozen=True)
class Pair:
    """One documented function, method or class."""

    module: str
    """Dotted module name, such as `json.decoder`."""
    src: str
    tgt: str


@dataclass(frozen=True)
class Corpus:
    """Everything read from one side of the split."""

    pairs: Tuple[Pair, ...]
    texts: Tuple[str, ...]


def family_of(module: str) -> str:
    """The unit that is never split: the top-level name, with `_pydecimal` counted as `decimal` (equal docstrings)."""
    name = module.split(".")[0].lower().lstrip("_")
    return name[2:] if module.startswith("_py") and len(name) > 2 else name


def is_held_out(module: str) -> bool:
    """True when the module belongs to dev. Depends on the name alone, so a new Python version moves no module."""
    digest = hashlib.sha256(family_of(module).encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "big") % 100 < DEV_PERCENT


def find_modules(library: Path) -> Iterator[Tuple[str, Path]]:
    """Yield (dotted module name, file) of every source file that people wrote, in name order."""
    for folder, folders, files in os.walk(str(library)):
        folders[:] = sorted(
            name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith(SKIPPED_FOLDER_STARTS)
        )
        for name in sorted(files):
            if not name.endswith(".py") or name.startswith(SKIPPED_FOLDER_STARTS):
                continue
            path = Path(folder, name)
            parts = list(path.relative_to(library).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            yield ".".join(parts), path


def read_module(path: Path) -> Optional[Tuple[str, ast.Module]]:
    """Source and syntax tree; None where the file is not UTF-8 or not of this Python version."""
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules are not our business
            return source, ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return None


def walk_definitions(node: ast.AST, owner: str = "") -> Iterator[Tuple[str, Definition]]:
    """Yield (enclosing class or "", definition) in source order; functions inside functions are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield owner, child
        elif isinstance(child, ast.ClassDef):
            yield owner, child
            yield from walk_definitions(child, child.name)
        elif isinstance(child, (ast.If, ast.Try)):
            yield from walk_definitions(child, owner)


def first_sentence(docstring: str) -> Optional[str]:
    """The first sentence on one line, or None where there is no clean sentence of 3 to 24 words."""
    paragraphs = [fold(part) for part in re.split(r"\n\s*\n", docstring.strip())]
    if len(paragraphs) > 1 and SIGNATURE_LINE.match(paragraphs[0]):
        paragraphs.pop(0)  # "index(x) -> int" on a line of its own repeats the signature
    text = SIGNATURE_START.sub("", paragraphs[0]) if paragraphs else ""
    for end in SENTENCE_END.finditer(text):
        words = text[: end.end()].lower().split()
        following = text[end.end() :].lstrip()[:1]
        if words and words[-1].lstrip("(\"'") not in ABBREVIATIONS and not following.islower():
            text = text[: end.end()]
            break
    return text if is_clean(text) else None


def fold(paragraph: str) -> str:
    """A paragraph as one line. A short line without a full stop before a capital is a heading: it ends there."""
    lines = [line.strip() for line in paragraph.split("\n")]
    for index, line in enumerate(lines[:-1]):
        if len(line) < SHORT_LINE and line[-1:].isalnum() and lines[index + 1][:1].isupper():
            lines = lines[: index + 1]
            break
    return " ".join(" ".join(lines).split())


def is_clean(sentence: str) -> bool:
    """Prose a person would write: ASCII, 3 to 24 words, mostly letters, no code, markup, list or dangling colon."""
    words = re.findall(r"[A-Za-z]{2,}", sentence)
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return (
        sentence.isascii()
        and MIN_WORDS <= min(len(words), len(sentence.split()))
        and len(words) <= MAX_WORDS
        and len(sentence) <= MAX_SENTENCE_CHARACTERS
        and letters >= 0.8 * len(sentence)
        and sentence[0].isalpha()
        and sentence[-1] not in ":,;(-"
        and NOISE.search(sentence) is None
        and sentence.count("(") == sentence.count(")")
    )


def signature(node: Definition) -> str:
    """`def name(args):` or `class Name(bases):`, cut at 160 characters."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        line = f"class {node.name}({bases}):" if bases else f"class {node.name}:"
    else:
        keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        line = f"{keyword} {node.name}({ast.unparse(node.args)}):"
    return line if len(line) <= MAX_SIGNATURE_CHARACTERS else line[: MAX_SIGNATURE_CHARACTERS - 3] + "..."


def body_lines(node: Definition, lines: List[str]) -> str:
    """The first lines after the docstring, dedented, blank lines left out, at most 120 characters."""
    if len(node.body) < 2:
        return ""
    first = node.body[1]
    decorators = getattr(first, "decorator_list", [])
    start = min([first.lineno] + [decorator.lineno for decorator in decorators])
    if start <= (node.body[0].end_lineno or 0):
        return ""  # `"docstring"; statement` on one line
    wanted = [line.rstrip() for line in lines[start - 1 : node.end_lineno] if line.strip()]
    kept: List[str] = []
    for line in textwrap.dedent("\n".join(wanted)).split("\n"):
        if sum(len(one) + 1 for one in kept) + len(line) > MAX_CONTEXT_CHARACTERS:
            break
        kept.append(line)
    return "\n".join(kept)


def describe(module: str, owner: str, node: Definition, lines: List[str]) -> str:
    """The source side of a pair: module, enclosing class, signature, first body lines, and the question."""
    header = f"# {module}\n" + (f"class {owner}:\n" if owner else "")
    body = body_lines(node, lines)
    indent = "    " if owner else ""
    code = signature(node) + ("\n" + textwrap.indent(body, "    ") if body else "")
    return header + textwrap.indent(code, indent) + "\n# What it does:"


def raw_text(module: str, node: Definition, lines: List[str]) -> str:
    """The definition as it stands in the file, docstring included, under the name of its module."""
    code = textwrap.dedent("\n".join(line.rstrip() for line in lines[node.lineno - 1 : node.end_lineno]))
    text = f"# {module}\n{code}\n"
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    return text[: text.rindex("\n", 0, MAX_TEXT_CHARACTERS) + 1]


def read_library(library: Path) -> Tuple[Corpus, Corpus]:
    """Read every module below `library` (train, dev). The leak filter has not run yet.

    Raises:
        SystemExit: no readable Python file there.
    """
    pairs: Dict[bool, List[Pair]] = {False: [], True: []}
    texts: Dict[bool, List[str]] = {False: [], True: []}
    num_modules = num_skipped = 0
    for module, path in find_modules(library):
        parsed = read_module(path)
        num_modules += 1
        if parsed is None:
            num_skipped += 1
            continue
        source, tree = parsed
        lines = source.splitlines()
        held_out = is_held_out(module)
        for owner, node in walk_definitions(tree):
            docstring = ast.get_docstring(node)
            if not docstring:
                continue
            if docstring.isascii():
                texts[held_out].append(raw_text(module, node, lines))
            sentence = first_sentence(docstring)
            src = describe(module, owner, node, lines)
            if sentence is not None and src.isascii():
                pairs[held_out].append(Pair(module, src, sentence))
    if num_modules == num_skipped:
        raise SystemExit(
            f"no readable Python source below {library}; give the folder of a standard library by --library"
        )
    print(f"read {num_modules - num_skipped:,} modules below {library}, {num_skipped} could not be parsed", flush=True)
    return tuple(Corpus(tuple(pairs[side]), tuple(texts[side])) for side in (False, True))  # type: ignore[return-value]


def without_repeats(corpus: Corpus, limit: int = 3) -> Corpus:
    """Drop repeated pairs, repeated texts, and a sentence ("Return a string.") from its fourth use on."""
    seen, count, pairs = set(), {}, []
    for pair in corpus.pairs:
        count[pair.tgt] = count.get(pair.tgt, 0) + 1
        if (pair.src, pair.tgt) not in seen and count[pair.tgt] <= limit:
            seen.add((pair.src, pair.tgt))
            pairs.append(pair)
    return Corpus(tuple(pairs), tuple(dict.fromkeys(corpus.texts)))


def without_leak(train: Corpus, dev: Corpus) -> Corpus:
    """Dev without what train already says: sentences of train pairs, sentences and code inside train texts."""
    sentences = {pair.tgt for pair in train.pairs}
    everything = " ".join(" ".join(text.split()) for text in train.texts)
    texts = {without_header(text) for text in train.texts}
    pairs = tuple(pair for pair in dev.pairs if pair.tgt not in sentences and pair.tgt not in everything)
    return Corpus(pairs, tuple(text for text in dev.texts if without_header(text) not in texts))


def without_header(text: str) -> str:
    """A raw text without its first line, the module name: the same code copied to another module is still a copy."""
    return text.split("\n", 1)[1]


def build(library: Path) -> Tuple[Corpus, Corpus]:
    """Train and dev of the quickstart, cleaned and free of leaks.

    Raises:
        SystemExit: the library has too little documentation to learn from (some systems strip docstrings).
    """
    train, dev = (without_repeats(corpus) for corpus in read_library(library))
    dev = without_leak(train, dev)
    if len(dev.pairs) < MIN_DEV_PAIRS or len(train.pairs) < 10 * MIN_DEV_PAIRS:
        raise SystemExit(
            f"{library} gives {len(train.pairs):,} train and {len(dev.pairs):,} dev pairs, at least "
            f"{10 * MIN_DEV_PAIRS:,} and {MIN_DEV_PAIRS:,} are needed; "
            "give the lib/python3.x folder of a complete Python by --library"
        )
    return train, dev


def write_lines(path: Path, rows: List[Dict[str, str]]) -> None:
    """Write JSON lines, UTF-8, \\n ends on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(str(path), "w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def shuffled(corpus: Corpus) -> Corpus:
    """The same content ordered by hash: a slice (max_samples) then holds many modules, not only those with an `a`."""

    def order(text: str) -> bytes:
        return hashlib.sha256(text.encode("utf-8")).digest()

    pairs = sorted(corpus.pairs, key=lambda pair: order(pair.src + pair.tgt))
    return Corpus(tuple(pairs), tuple(sorted(corpus.texts, key=order)))


def write(corpus: Corpus, split: str, output_dir: Path) -> None:
    """Write one side of the split: data/SPLIT.json and pretrain/SPLIT.json below `output_dir`."""
    corpus = shuffled(corpus)
    if split == "dev":
        corpus = Corpus(corpus.pairs[:MAX_DEV_ROWS], corpus.texts[:MAX_DEV_ROWS])
    pairs = [{"src": pair.src, "tgt": pair.tgt} for pair in corpus.pairs]
    write_lines(output_dir / "data" / f"{split}.json", pairs)
    write_lines(output_dir / "pretrain" / f"{split}.json", [{"text": text} for text in corpus.texts])
    num_modules = len({pair.module for pair in corpus.pairs})
    num_characters = sum(len(text) for text in corpus.texts)
    print(
        f"{split}: {len(pairs):,} pairs of {num_modules} modules; "
        f"{len(corpus.texts):,} texts, {num_characters:,} characters"
    )


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, default=Path(sysconfig.get_path("stdlib")))
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/quickstart"))
    arguments = parser.parse_args(argv)
    train, dev = build(arguments.library)
    write(train, "train", arguments.output_dir)
    write(dev, "dev", arguments.output_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
