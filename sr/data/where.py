"""Conditions on the samples of a tar, checked when the tar is indexed, so that the order stays a pure function."""

import ast
import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, field_validator

COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
LONGEST = 1000  # characters of an expression


class Where(BaseModel):
    """Which samples to take: those that meet all conditions.

    min_side, max_side: of the shorter and of the longer side of gt, in pixels. min_bytes, max_bytes: of the gt member.
    json: an expression over the values of the sample's `.json` member, such as `aesthetic > 5 and nsfw < 0.1`: names,
    numbers, strings, lists, comparisons, `in`, `and`, `or`, `not`, and `a.b` for nested values. A sample without one of
    the values is left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    min_side: NonNegativeInt = 0
    max_side: NonNegativeInt = 0
    min_bytes: NonNegativeInt = 0
    max_bytes: NonNegativeInt = 0
    json_: str = Field(default="", alias="json")

    @field_validator("json_")
    @classmethod
    def _is_plain(cls, text: str) -> str:
        if text:
            parse(text)
        return text


def parse(text: str) -> ast.expr:
    """The tree of an expression. Raises ValueError if it holds anything but comparisons of values."""
    if len(text) > LONGEST:
        raise ValueError(f"the expression is longer than {LONGEST} characters; shorten it")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"'{text}' is no expression; write it as in: aesthetic > 5 and nsfw < 0.1") from None
    allowed = ast.BoolOp | ast.And | ast.Or | ast.UnaryOp | ast.Not | ast.USub | ast.Compare | ast.Name | ast.Load
    allowed |= ast.Attribute | ast.List | ast.Tuple | ast.cmpop
    for node in ast.walk(tree):
        constant = isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None)
        if isinstance(node, ast.Is | ast.IsNot) or not (constant or isinstance(node, allowed)):
            raise ValueError(
                f"'{ast.unparse(node)}' is not allowed in '{text}'; use names, numbers, strings, lists, comparisons,"
                " in, and, or, not"
            )
    return tree


def holds(tree: ast.expr, values: Mapping[str, Any]) -> bool:
    """Whether an expression is true. Raises LookupError for a missing value, TypeError for unlike types."""
    return bool(_value(tree, values))


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return values[node.id]
        case ast.Attribute():
            return _value(node.value, values)[node.attr]
        case ast.List() | ast.Tuple():
            return [_value(item, values) for item in node.elts]
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, values)
        case ast.UnaryOp():
            return -_value(node.operand, values)
        case ast.BoolOp():
            check = all if isinstance(node.op, ast.And) else any
            return check(_value(part, values) for part in node.values)
        case ast.Compare():
            sides = [_value(side, values) for side in (node.left, *node.comparators)]
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            return all(COMPARE[type(op)](left, right) for op, left, right in pairs)
    raise TypeError(type(node).__name__)


def refusal(where: Where, size: int, sides: Callable[[], tuple[int, int]], metadata: Callable[[], bytes | None]) -> str:
    """Why a sample is left out, as a reason for `Skipped`; "" if it is taken.

    size: bytes of the gt member. sides, metadata: return its height and width, and the `.json` member of the sample.
    """
    if size < where.min_bytes:
        return f"samples below {where.min_bytes} bytes"
    if where.max_bytes and size > where.max_bytes:
        return f"samples above {where.max_bytes} bytes"
    if where.min_side or where.max_side:
        height, width = sides()
        if min(height, width) < where.min_side:
            return f"samples with a side below {where.min_side}"
        if where.max_side and max(height, width) > where.max_side:
            return f"samples with a side above {where.max_side}"
    return _by_metadata(where.json_, metadata) if where.json_ else ""


def _by_metadata(text: str, metadata: Callable[[], bytes | None]) -> str:
    content = metadata()
    if content is None:
        return "samples without a .json member"
    try:
        return "" if holds(parse(text), json.loads(content)) else f"samples that do not meet {text}"
    except LookupError as error:
        return f"samples whose .json member lacks {error.args[0]}"
    except (ValueError, TypeError, RecursionError):
        return "samples whose .json member cannot be compared"


EVERYTHING = Where()
