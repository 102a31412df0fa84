"""What config.json says of a folder of codes: which layers are stored how. Needs no paddle."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.quant.choice import Schemes, from_list, to_list
from paddle_sft.quant.scheme import Scheme

CONFIG_KEY = "paddle_sft_quantisation"
"""Key of config.json in a folder of codes."""
FORMAT_VERSION = 1


def schemes_in(config: Mapping[str, Any], place: str) -> Dict[str, Scheme]:
    """Path -> scheme of the layers whose codes are in a folder, by its config.json; empty for a model of floats.

    Raises:
        ModelError: written by a later version, or not readable.
    """
    content = config.get(CONFIG_KEY)
    if content is None:
        return {}
    try:
        if content["format_version"] != FORMAT_VERSION:
            raise ModelError(
                f"{place}: quantised format {content['format_version']}, this version reads {FORMAT_VERSION}; upgrade "
                "paddle_sft"
            )
        return from_list(content["schemes"])
    except (KeyError, TypeError, AttributeError, ArgumentError) as error:
        raise ModelError(f"{place}: {CONFIG_KEY} in config.json can't be read: {error!r}") from error


def in_config(schemes: Schemes) -> Dict[str, Any]:
    """The entry of config.json that `schemes_in` reads."""
    return {CONFIG_KEY: {"format_version": FORMAT_VERSION, "schemes": to_list(schemes)}}


def summary(schemes: Schemes) -> str:
    """In a few words."""
    counts: Dict[str, int] = {}
    for scheme in schemes.values():
        counts[scheme.describe()] = counts.get(scheme.describe(), 0) + 1
    return "; ".join(f"{text}: {count} layers" for text, count in counts.items())
