"""Mutations of bytes, of the blocks of a tar, and of the values of a YAML or JSON tree."""

import copy
import random
from typing import Any

BLOCK = 512
Tree = Any  # of dicts, lists and plain values

NASTY: list[Tree] = [
    *(None, True, -1, 0, 1, 2, 3, 2**31, 2**63, 10**30, -(2**40), 1e308, -0.5, 0.0, 1e-9),
    *(float("nan"), float("inf"), float("-inf")),
    *("", "x", "nan", "1e-3", "../../x", "/dev/null", "\0", "é\u202e", "a" * 5000, "no.such.Thing", "json.nothing"),
    *([], {}, [[]], [1, 2, 3], [None], [0.5, 0.1], {"type": "x"}, {"type": None}, {"a": {"b": [1]}}),
]


def of_bytes(data: bytes, rng: random.Random, most: int = 4) -> bytes:
    """Apply 1 to `most` changes: bits, numbers, spans removed, doubled, zeroed or inserted, truncation; half early."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if not changed:
            break
        at = rng.randrange(min(len(changed), 160) if rng.random() < 0.5 else len(changed))
        span = slice(at, at + rng.choice((1, 2, 4, 16, 100, 1000)))
        match rng.randrange(8):
            case 0 | 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                changed[at : at + 4] = rng.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"\xff\xff\xff\x7f"))
            case 3:
                del changed[span]
            case 4:
                changed[at:at] = changed[span]
            case 5:
                changed[span] = bytes(len(changed[span]))
            case 6:
                changed[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
            case 7:
                del changed[at:]
    return bytes(changed)


def of_blocks(data: bytes, rng: random.Random) -> bytes:
    """Return a tar with a block removed, doubled, zeroed or swapped, truncated, or with a second tar appended."""
    blocks = [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]
    one, other = rng.randrange(len(blocks)), rng.randrange(len(blocks))
    match rng.randrange(6):
        case 0:
            del blocks[one]
        case 1:
            blocks.insert(one, blocks[one])
        case 2:
            blocks[one] = bytes(BLOCK)
        case 3:
            blocks[one], blocks[other] = blocks[other], blocks[one]
        case 4:
            del blocks[one:]
        case 5:
            blocks += blocks
    return b"".join(blocks)


def of_tree(tree: Tree, rng: random.Random, most: int = 3, *, alike: bool = False) -> Tree:
    """Change 1 to `most` values or keys of a copy of the tree. alike: replace values by others of their type."""
    changed = copy.deepcopy(tree)
    for _ in range(rng.randint(1, most)):
        places = list(_places(changed))
        if not places:
            break
        holder, key = rng.choice(places)
        match 4 if alike else rng.randrange(6):
            case 0 | 1 | 2:
                holder[key] = copy.deepcopy(rng.choice(NASTY))
            case 3:
                del holder[key]
            case 4:
                holder[key] = _like(holder[key], rng)
            case 5 if isinstance(holder, dict):
                holder[rng.choice((f"{key}s", "type", "x", "regularizers", "weight"))] = holder.pop(key)
            case _:
                holder[key] = [holder[key]] * rng.choice((1, 2, 50))
    return changed


def _like(value: Tree, rng: random.Random) -> Tree:
    """Return another value of the same type, which a type check accepts."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((0, -1, 1, 7, 10**6, 2**31, value + 1, -value, value * 1000))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), -value, value * 1000))
    if isinstance(value, str):
        return rng.choice((value + "x", value[1:], value.upper(), value * 100))
    if isinstance(value, list):
        return rng.choice((value[::-1], value[1:], value * 2, [value]))
    return {} if isinstance(value, dict) else 1


def _places(tree: Tree) -> Any:
    """Yield (holder, key or index) of every value below the root."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)
