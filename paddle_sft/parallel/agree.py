"""All ranks go on, or none does."""

from __future__ import annotations

import platform
from typing import Any, Callable, Optional, TypeVar

from paddle_sft.core.errors import PaddleSFTError
from paddle_sft.parallel.groups import Groups, gather_objects

Result = TypeVar("Result")


def together(groups: Optional[Groups], work: Callable[[], Result]) -> Result:
    """What `work` returns, once it has returned on all ranks. It must not wait for other ranks.

    Raises:
        BaseException: as `agree`.
    """
    result, failure = None, None
    try:
        result = work()
    except BaseException as error:  # the others wait to hear of it
        failure = error
    agree(groups, failure)
    return result


def agree(groups: Optional[Groups], failure: Optional[BaseException]) -> None:
    """All ranks call it, each with what it met or None, and wait for one another.

    Raises:
        BaseException: `failure`, where it was met. The other ranks say which rank on which machine met what: by an
            error of the same kind if it is one that a user can mend, else by a RuntimeError.
    """
    met = [None] if groups is None else gather_objects(_words(failure), groups.world)
    if failure is not None:
        raise failure
    for rank, one in enumerate(met):
        if one is not None:
            kind, machine, text = one
            raise kind(f"rank {rank} on {machine}: {text}")


def _words(failure: Optional[BaseException]) -> Any:
    if failure is None:
        return None
    is_named = isinstance(failure, PaddleSFTError)
    return (
        (type(failure), platform.node(), str(failure)) if is_named else (RuntimeError, platform.node(), repr(failure))
    )
