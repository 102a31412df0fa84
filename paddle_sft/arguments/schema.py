"""A JSON Schema of the argument file, so that editors complete keys and mark mistakes."""

from __future__ import annotations

from typing import Any, Dict, List, get_args, get_origin

from paddle_sft.arguments.fields import Key
from paddle_sft.arguments.keys import Catalogue, Translation, finetune_catalogue
from paddle_sft.arguments.values import NONE, members_of

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", NONE: "null"}


def finetune_schema() -> Dict[str, Any]:
    """The schema (draft 7) of a run_finetune.py argument file; every accepted spelling is a property."""
    catalogue = finetune_catalogue()
    properties: Dict[str, Any] = {"$schema": {"type": "string", "description": "This schema, for editors."}}
    for key in catalogue.keys.values():
        properties[key.name] = _property(key)
    for alias, name in catalogue.aliases.items():
        if "." not in alias:
            properties[alias] = {**_property(catalogue.keys[name]), "description": f"The same as {name}."}
    for name, translation in catalogue.translations.items():
        properties[name] = _translated(translation)
    properties.update(_nested(catalogue))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "paddle_sft fine-tuning arguments",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _property(key: Key) -> Dict[str, Any]:
    """One key: type, limits, default and meaning."""
    if not key.available:
        return {
            "description": f"Not available yet: {key.help} {key.not_yet.instead}",
            "default": key.default,
            "enum": key.off_values,
        }
    about: Dict[str, Any] = {"description": key.help, "default": key.default}
    choices = [*key.choices.allowed, *key.choices.synonyms]
    kinds = [_kind(member) for member in members_of(key.hint)]
    if choices and not key.choices.pattern:
        kinds = [_with_choices(kind, choices) for kind in kinds]
    if key.bounds:
        kinds = [_with_bounds(kind, key) for kind in kinds]
    about.update(kinds[0] if len(kinds) == 1 else {"anyOf": kinds})
    return about


def _kind(member: Any) -> Dict[str, Any]:
    if get_origin(member) is list:
        return {"type": "array", "items": _kind(get_args(member)[0])}
    if get_origin(member) is dict:
        return {"type": "object"}
    return {"type": _TYPES[member]}


def _with_choices(kind: Dict[str, Any], choices: List[Any]) -> Dict[str, Any]:
    if kind["type"] == "array":
        return {**kind, "items": {**kind["items"], "enum": choices}}
    return {**kind, "enum": choices} if kind["type"] == "string" else kind


def _with_bounds(kind: Dict[str, Any], key: Key) -> Dict[str, Any]:
    if kind["type"] not in ("integer", "number"):
        return kind
    limited = dict(kind)
    if key.bounds.minimum is not None:
        limited["exclusiveMinimum" if key.bounds.strict_minimum else "minimum"] = key.bounds.minimum
    if key.bounds.maximum is not None:
        limited["exclusiveMaximum" if key.bounds.strict_maximum else "maximum"] = key.bounds.maximum
    return {"anyOf": [limited, {"enum": list(key.bounds.also)}]} if key.bounds.also else limited


def _translated(translation: Translation) -> Dict[str, Any]:
    values = [*translation.meaning, *translation.silent]
    kinds = [_kind(member) for member in members_of(translation.hint)]
    limits = {"enum": values} if values else (kinds[0] if len(kinds) == 1 else {"anyOf": kinds})
    return {"description": translation.help, **limits}


def _nested(catalogue: Catalogue) -> Dict[str, Any]:
    """ "a.b" as a property a that is an object with a property b, and as it stands."""
    properties: Dict[str, Any] = {}
    for alias, name in catalogue.aliases.items():
        if "." in alias:
            outer, inner = alias.split(".")
            about = {**_property(catalogue.keys[name]), "description": f"The same as {name}."}
            group = properties.setdefault(
                outer, {"type": ["object", "null"], "additionalProperties": False, "properties": {}}
            )
            group["properties"][inner] = about
            properties[alias] = about
    return properties
