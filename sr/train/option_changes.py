"""Resume with changed options: which changes are allowed, which need consent, and which are refused."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from sr.core.errors import UserError

ALLOWED = (
    "name",
    "out",
    "init*",  # used before step 1 only
    "log.*",
    "save.*",
    "validation.*",
    "schedule.*",
    "optimizer.*.lr",
    "generator.test_time",
    "train.total_steps",
    "train.accumulate",
    "train.channels_last",
    "train.checkpoint_activations",
    "train.cuda_graph",
    "train.recompute",
    "train.compile",
    "train.timeout",
    "train.check_ranks_every",
    "data.workers",
    "data.max_bad*",
    "data.make*",
    "data.source.*cache*",
)
"""Options that may change without consent: they do not change what is learned, or, like rates, are meant to change."""
REFUSED = "task", "scale", "generator.*", "discriminator*"
"""Options that define the networks: another checkpoint would be needed."""
NOT_SET = "(not set)"


class Change(NamedTuple):
    """key: dotted, such as `losses.pixel.weight` or `degrade.0.sigma.1`."""

    key: str
    old: Any
    new: Any

    @property
    def rule(self) -> str:
        """`allowed`, `refused`, or `consent`."""
        if any(fnmatchcase(self.key, pattern) for pattern in ALLOWED):
            return "allowed"
        return "refused" if any(fnmatchcase(self.key, pattern) for pattern in REFUSED) else "consent"


def changes(old: Mapping[str, Any], new: Mapping[str, Any], written: Mapping[str, Any]) -> list[Change]:
    """The options that differ, in the order of the new file. `old` and `new` have their defaults filled in.

    written: `new` without the defaults. What is neither in `old` nor written is the default of an option that is newer
    than the checkpoint, and no change.
    """
    before, after, given = dict(_flat(old)), dict(_flat(new)), dict(_flat(written))
    keys = [key for key in dict.fromkeys([*after, *before]) if key in before or key in given]
    rows = (Change(key, before.get(key, NOT_SET), after.get(key, NOT_SET)) for key in keys)
    return [row for row in rows if row.old != row.new]


def check(found: list[Change], *, folder: Path, step: int, accepted: bool) -> None:
    """Raise UserError for a change that is refused, or that needs consent where `accepted` is False."""
    for change in found:
        if change.rule == "refused":
            raise UserError(
                f"{folder}: was made with {change.key}: {change.old}, the options have {change.new}; "
                "use another `name`, or set it back"
            )
    open_ = [f"{change.key} ({change.old} -> {change.new})" for change in found if change.rule == "consent"]
    if open_ and not accepted:
        more = f" and {len(open_) - 4} more" if open_[4:] else ""
        raise UserError(
            f"{folder}: changed since step {step}: {', '.join(open_[:4])}{more}; "
            "add --accept-changes to resume with them, or use another `name`"
        )


def table(found: list[Change], *, step: int) -> str:
    """The changes for people: key, old value and new value in columns."""
    rows = [("option", "old", "new"), *((key, str(old), str(new)) for key, old, new in found)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {key:{widths[0]}s}  {old:{widths[1]}s}  {new}" for key, old, new in rows]
    return "\n".join([f"options changed since step {step}:", *lines])


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; empty mappings and lists are leaves."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    if not value or not items:
        yield prefix, value
        return
    for key, inner in items:
        yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
