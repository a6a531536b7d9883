"""Conversion of dataclasses to dicts of arrays, numbers and strings, and back. Saved models use it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

Record = TypeVar("Record")


def to_plain(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as a dict. Fields that are dataclasses become dicts too."""
    values = {field.name: getattr(record, field.name) for field in fields(record) if field.init}
    return {name: to_plain(value) if is_dataclass(value) else value for name, value in values.items()}


def from_plain(kind: type[Record], state: dict[str, Any]) -> Record:
    """Return the dataclass with these fields. This is the inverse of :func:`to_plain`."""
    kinds = get_type_hints(kind)
    return kind(
        **{
            name: from_plain(kinds[name], value) if is_dataclass(kinds[name]) else value
            for name, value in state.items()
        }
    )
