"""A JSON array read value by value, so that a file of any size is read in the memory of a few values."""

from __future__ import annotations

import codecs
import json
from typing import Any, BinaryIO, Iterator

READ_BYTES = 1 << 20
"""Bytes that are read at a time; more while one value is longer."""
_BLANK = " \t\n\r"
_MARK = "\ufeff"


class ArrayError(ValueError):
    """What is wrong with the text, and the line where."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class _Text:
    """The part of a text that is being read, and where it stands in the whole."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self.text = ""
        self.at = 0
        """The next character."""
        self.is_whole = False
        """Nothing more will come."""
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._num_bytes = 0
        self._num_lines = 0
        self._column = 0
        """Lines of the whole that end before the part, and characters of its first line that do."""
        self._add(head)
        self.at = int(self.text.startswith(_MARK))

    def more(self) -> None:
        """Read on; characters before `at` are forgotten."""
        wanted = max(READ_BYTES, 2 * (len(self.text) - self.at))  # twice, so that a long value isn't parsed too often
        gone = self.text[: self.at]
        self._num_lines += gone.count("\n")
        self._column = len(gone) - gone.rfind("\n") - 1 + ("\n" not in gone) * self._column
        self.text, self.at = self.text[self.at :], 0
        self._add(self._stream.read(wanted))

    def _add(self, content: bytes) -> None:
        try:
            self.text += self._decode(content, final=not content)
        except UnicodeDecodeError as error:
            # the decoder had some bytes of before
            start = self._num_bytes + len(content) - len(error.object) + error.start
            line = self._num_lines + self.text.count("\n") + error.object.count(b"\n", 0, error.start) + 1
            byte = error.object[error.start]
            message = f"not UTF-8, byte 0x{byte:02x} at offset {start} of the file; save it as UTF-8"
            raise ArrayError(message, line) from None
        self._num_bytes += len(content)
        self.is_whole = not content

    def peek(self) -> str:
        """The next character that is not blank, "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _BLANK:
                self.at += 1
            if self.at < len(self.text) or self.is_whole:
                return self.text[self.at : self.at + 1]
            self.more()

    def wrong(self, message: str, position: int) -> ArrayError:
        """What json.loads of the whole text would say of a character of the part."""
        before = self.text[:position]
        column = len(before) - before.rfind("\n") + ("\n" not in before) * self._column
        line = self._num_lines + before.count("\n") + 1
        return ArrayError(f"not valid JSON ({message}, column {column})", line)

    def value(self) -> Any:
        """The value that begins at the next character that is not blank."""
        self.peek()
        while True:
            try:
                found, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.is_whole:
                    raise self.wrong(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:  # a number of over 4,300 digits; brackets nested too deep
                line = self._num_lines + self.text.count("\n", 0, self.at) + 1
                raise ArrayError(f"JSON that can't be read ({error})", line) from None
            else:
                # at the end, or before a point or an exponent, it may be the begin of a longer number
                if self.is_whole or self.text[end : end + 1] not in ("", ".", "e", "E"):
                    self.at = end
                    return found
            self.more()


_DECODER = json.JSONDecoder()


def read_values(head: bytes, stream: BinaryIO) -> Iterator[Any]:
    """The values of the array that `head` and what follows in `stream` hold. `head` has its opening bracket.

    Raises:
        ArrayError: text that is no JSON array, when it is reached.
    """
    text = _Text(head, stream)
    text.peek()
    text.at += 1
    if text.peek() != "]":
        yield text.value()
        while text.peek() == ",":
            text.at += 1
            yield text.value()
    if text.peek() != "]":
        raise text.wrong("Expecting ',' delimiter", text.at)
    text.at += 1
    if text.peek():
        raise text.wrong("Extra data", text.at)
