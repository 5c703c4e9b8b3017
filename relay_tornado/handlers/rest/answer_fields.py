"""The fields that an answer always has, with what the API's description says of them."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from relay_tornado.wire.fields import described


def text(about: str = "", **details: Any) -> fields.String:
    return fields.String(required=True, metadata=described(about), **details)


def integer(about: str = "", **details: Any) -> fields.Integer:
    return fields.Integer(required=True, metadata=described(about), **details)


def decimal(about: str = "", **details: Any) -> fields.Float:
    return fields.Float(required=True, metadata=described(about), **details)


def flag(about: str = "", **details: Any) -> fields.Boolean:
    return fields.Boolean(required=True, metadata=described(about), **details)


def header_map(about: str = "") -> fields.Dict:
    values = fields.List(fields.String())
    return fields.Dict(required=True, keys=fields.String(), values=values, metadata=described(about))


def unix_time(about: str = "Unix time in seconds.", **details: Any) -> fields.Integer:
    return integer(about, **details)


def part(form: type[Schema], about: str = "", **details: Any) -> fields.Nested:
    return fields.Nested(form, required=True, metadata=described(about), **details)


def listed(of: type[Schema] | fields.Field[Any], about: str = "") -> fields.List[Any]:
    each = of if isinstance(of, fields.Field) else fields.Nested(of)
    return fields.List(each, required=True, metadata=described(about))
