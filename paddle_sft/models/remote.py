"""A model by folder or by name: always ends in a folder on this machine."""

from __future__ import annotations

import errno
import os
import time
from difflib import get_close_matches
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from paddle_sft.core.errors import ModelError
from paddle_sft.core.log import get_logger
from paddle_sft.core.tensorfile import why_hollow
from paddle_sft.models.hubs import ADAPTER, HUBS, MODEL, TOKENIZER, Hub, missing_files

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Either, set to 1, keeps every hub's client from the network; the names are those of the Hugging Face libraries."""
TRIES = 5
PAUSE = 1.0  # seconds before the first new try, one more before each other

_POINTER_BYTES = 1024  # a git-lfs pointer has about 130 bytes
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def is_offline() -> bool:
    """Whether the user forbids the network."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE)


def local_folder(name: str, hub: str = "paddlenlp", with_weights: bool = True) -> Path:
    """The folder of a model, downloaded from a hub (a key of HUBS) if `name` is no folder here.

    Without weights only config and tokenizer are fetched. A download that was cut goes on where it stopped, in this
    call and in the next. Mirrors, tokens and caches come from the environment variables of each hub's own client (see
    HUBS).

    Raises:
        ModelError: neither a folder nor a model that could be downloaded.
    """
    return _local(name, hub, MODEL if with_weights else TOKENIZER)


def _local(name: str, hub: str, what: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        _require_fetched_by_git(folder)
        return folder
    if looks_like_path(name):
        raise ModelError(f"no {what if what == ADAPTER else MODEL} folder {name}{_nearest_folder(name)}")
    place = HUBS[hub]
    if is_offline():
        return _from_cache(name, place, what)
    try:
        return _fetch_patiently(name, place, what)
    except Exception as error:  # the hubs' clients raise anything from OSError to AssertionError
        if _is_unreachable(error) and _is_complete(place.cached(name), what):
            get_logger().warning("%s can't be reached; taking the copy in %s", place.title, place.cached(name))
            return place.cached(name)
        raise ModelError(explain(error, name, place)) from error


def local_adapter(name: str, hub: str = "paddlenlp") -> Path:
    """The folder of an adapter, of whatever program; downloaded as `local_folder` does.

    Raises:
        ModelError: no such folder, and nothing of that name could be downloaded.
    """
    return _local(name, hub, ADAPTER)


def cached_folder(name: str, hub: str = "paddlenlp") -> Optional[Path]:
    """The folder of a model that is on this machine, whole, without asking any network; None if there is none."""
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if looks_like_path(name):
        return None
    folder = HUBS[hub].cached(name)
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path, what: str = MODEL) -> bool:
    return folder.is_dir() and not missing_files(folder, what)


def _from_cache(name: str, hub: Hub, what: str) -> Path:
    folder = hub.cached(name)
    if _is_complete(folder, what):
        return folder
    missing = ", ".join(missing_files(folder, what)) if folder.is_dir() else "the whole folder"
    switch = next(switch for switch in OFFLINE if os.environ.get(switch))
    raise ModelError(
        f"{name!r} is no folder here, and {switch}={os.environ[switch]} forbids to ask {hub.title}; looked in "
        f"{folder}, missing there: {missing}. Unset {switch} once to download it, or give a model folder"
    )


def _fetch_patiently(name: str, hub: Hub, what: str) -> Path:
    for attempt in range(1, TRIES + 1):
        try:
            return hub.fetch(hub.address(), name, what)
        except Exception as error:  # see local_folder
            if attempt == TRIES or not _was_cut(error):
                raise
            get_logger().warning(
                "the connection to %s was lost; going on where it stopped (try %d of %d)", hub.title, attempt + 1, TRIES
            )
            time.sleep(PAUSE * attempt)
    raise AssertionError("unreachable")


# ---- what went wrong ----------------------------------------------------------------------------------------------


def explain(error: BaseException, name: str, hub: Hub) -> str:
    """One sentence for the user: what went wrong and what to do, from whatever a hub's client raised."""
    where = f"{hub.title} at {hub.address()}" if hub.address() else hub.title
    elsewhere = "or download the model elsewhere and give its folder"
    if any(_is_about_room(cause) for cause in _causes(error)):
        return (
            f"no room for {name!r} ({hub.title}) in {hub.cached(name)}: {os.strerror(errno.ENOSPC)}; free some, or set "
            f"{hub.home} to a folder on a larger disk. The same command goes on where this one stopped"
        )
    own = next((cause for cause in _causes(error) if isinstance(cause, ModelError)), None)
    status, kind = _answer(error)
    if own is not None:
        return f"{name!r} from {where} can't be used: {own}"
    if kind == "GatedRepoError" or status in (401, 403) and kind != "RepositoryNotFoundError":
        token = f"set {hub.token} to a token of an account that may read it" if hub.token else "check the name"
        return (
            f"{where} refuses {name!r} (HTTP {status}): it is private, or its terms have to be accepted on its page "
            f"first; then {token}, {elsewhere}"
        )
    if kind == "RepositoryNotFoundError" or status == 404:
        private = f" (a private one needs {hub.token})" if hub.token else ""
        return (
            f"{name!r} is no folder here, and {where} has no model of this name{private}; check the spelling, set "
            "from_hf_hub, from_aistudio or from_modelscope if it is on another hub, or give a model folder"
        )
    if _is_unreachable(error):
        return (
            f"{name!r} is no folder here, and {where} can't be reached: {_said(error)}; check the network, set "
            f"{hub.mirror} to a mirror, {elsewhere}"
        )
    answered = f" answers HTTP {status}" if status else f" did not give it: {_said(error)}"
    return f"{name!r} is no folder here, and {where}{answered}; try again later, {elsewhere}"


def _is_about_room(cause: BaseException) -> bool:
    """Some clients only quote the error that they met in a thread."""
    return getattr(cause, "errno", None) in _NO_ROOM or any(f"[Errno {code}]" in str(cause) for code in _NO_ROOM)


def _causes(error: Optional[BaseException]) -> Iterator[BaseException]:
    """An error and what led to it, outermost first."""
    seen: List[int] = []
    while error is not None and id(error) not in seen:
        seen.append(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _answer(error: BaseException) -> Tuple[Optional[int], str]:
    """(HTTP status, class name of the client's error) of a hub that answered."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", None) or getattr(cause, "status_code", None)
        if isinstance(status, int):
            return status, type(cause).__name__
    found = [cause for cause in _causes(error) if type(cause).__name__ in ("EntryNotFoundError", "NotExistError")]
    return (404, type(found[0]).__name__) if found else (None, "")


def _was_cut(error: BaseException) -> bool:
    """Whether a transfer broke off: asking again may go on. A hub that never answered is not asked again.

    ModelScope's client asks again by itself; its errors come after that.
    """
    from requests.exceptions import ChunkedEncodingError
    from urllib3.exceptions import IncompleteRead, ReadTimeoutError

    return any(isinstance(cause, (ChunkedEncodingError, IncompleteRead, ReadTimeoutError)) for cause in _causes(error))


def _is_unreachable(error: BaseException) -> bool:
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import Timeout

    return _answer(error)[0] is None and any(
        isinstance(cause, (NoConnection, Timeout, ConnectionError)) for cause in _causes(error)
    )


def _said(error: BaseException) -> str:
    innermost = list(_causes(error))[-1]
    return " ".join(str(innermost).split())[:300] or type(innermost).__name__


# ---- folders ------------------------------------------------------------------------------------------------------


def looks_like_path(name: str) -> bool:
    """Whether a name can't be a model's on any hub: owner/name is the most they have."""
    return name.startswith((".", "/", "~", os.sep)) or name.endswith(os.sep) or name.count("/") > 1


def _nearest_folder(name: str) -> str:
    parent = Path(name).expanduser().parent
    if not parent.is_dir():
        return f" ({parent} is no folder either)"
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    near = get_close_matches(Path(name).name, names, n=1)
    return f"; did you mean {parent / near[0]}?" if near else f"; folders in {parent}: {', '.join(names[:8]) or 'none'}"


def _require_fetched_by_git(folder: Path) -> None:
    """A clone without git-lfs looks like a model folder, but its weights and tokenizer are addresses.

    Raises:
        ModelError: names the files.
    """
    small = (path for path in folder.iterdir() if path.is_file() and 0 < path.stat().st_size < _POINTER_BYTES)
    pointers = sorted(path.name for path in small if why_hollow(path))
    if pointers:
        raise ModelError(
            f"{folder}: {len(pointers)} files are git-lfs pointers, not the files themselves ({', '.join(pointers[:4])}"
            f"{', ...' if len(pointers) > 4 else ''}); run git lfs pull in that folder"
        )
