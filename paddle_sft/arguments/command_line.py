"""The command line: an argument file, then --key value, --key=value or a bare --key. Names are never abbreviated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

from paddle_sft.arguments.files import SUFFIXES
from paddle_sft.core.errors import ArgumentError


@dataclass(frozen=True)
class CommandLine:
    """What stood on the command line, still as words."""

    file: Optional[str]
    words: Tuple[Tuple[str, Tuple[str, ...]], ...]
    """(key, words after it) in order; no word means a bare flag."""
    help: bool = False


def split_command_line(argv: List[str]) -> CommandLine:
    """Sort the words of a command line.

    Raises:
        ArgumentError: a word that is neither an argument file nor belongs to a --key, or two files.
    """
    if "-h" in argv or "--help" in argv:
        return CommandLine(None, (), help=True)
    files: List[str] = []
    options: List[Tuple[str, List[str]]] = []
    for word in argv:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            options.append((key, [value] if equals else []))
        elif options:
            options[-1][1].append(word)
        elif word.endswith(SUFFIXES):
            files.append(word)
        else:
            raise ArgumentError(
                f"{word!r} is neither an argument file ({', '.join(SUFFIXES)}) nor --key value; "
                "write CONFIG.json [--key value ...]"
            )
    for words in (words for key, words in options if key == "config"):
        files.extend(words)
    if len(files) > 1:
        raise ArgumentError(f"one argument file at most, got {len(files)}: {', '.join(files)}")
    rest = tuple((key, tuple(words)) for key, words in options if key != "config")
    return CommandLine(files[0] if files else None, rest)
