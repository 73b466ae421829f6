"""One line that states how many samples a run trains on, and how many files were skipped."""

from collections.abc import Sequence

from sr.data.counts import Counts
from sr.data.derived import Derived
from sr.data.mix import Sources, sides_of
from sr.data.source import Source
from sr.data.unpaired import Unpaired
from sr.images.listing import Skipped


def summary(source: Sources) -> str:
    """As in `800 samples; 6 files skipped: 6 with suffix .txt (photos/a.txt)`."""
    sides = [_side([part for part, _ in side]) for side in sides_of(source)]
    return f"b: {sides[0]}; a: {sides[1]}" if isinstance(source, Unpaired) else sides[0]


def _side(parts: Sequence[Source]) -> str:
    skipped, notes = Skipped(), list[str]()
    for part in parts:
        while isinstance(part, Derived):
            part = part.of
        skipped.update(getattr(part, "skipped", Skipped()))
        notes += part.notes() if hasattr(part, "notes") else []
    counts = [part.counts for part in parts]
    samples = sum(part.total if isinstance(part, Counts) else sum(part) for part in counts)
    shards, missing = sum(map(len, counts)), sum(part.missing for part in counts if isinstance(part, Counts))
    count = f"{samples} samples"
    if missing:
        known = (
            f"{count} in {shards - missing} shards, and {missing} others" if missing < shards else f"{shards} shards"
        )
        count = f"{known} whose samples are counted when they are read"
    return "; ".join(filter(None, (count, str(skipped), *notes)))
