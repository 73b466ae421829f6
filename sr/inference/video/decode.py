"""Decode what a damaged video still holds, and deinterlace."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr.core.errors import UserError

FILTERS = "bwdif", "yadif"  # in order of preference


@dataclass
class Damage:
    """lost: packets without a decodable frame. shown: decoded frames with errors. cut: the file ends in the middle."""

    lost: int = 0
    shown: int = 0
    cut: str = ""

    def __str__(self) -> str:
        """As in `2 damaged frames are left out, 1 is shown with errors`; "" for none."""
        parts = [
            f"{self.lost} damaged frame{'s are' if self.lost > 1 else ' is'} left out" if self.lost else "",
            f"{self.shown} frame{'s are' if self.shown > 1 else ' is'} shown with errors" if self.shown else "",
            self.cut,
        ]
        return ", ".join(filter(None, parts))


def opened(av: Any, source: Path) -> Any:
    """Open a video for reading, even where its tags are not UTF-8."""
    return av.open(str(source), metadata_errors="replace")


def decoded(av: Any, file: Any, stream: Any, damage: Damage) -> Iterator[Any]:
    """The frames of a stream. What cannot be decoded is counted in `damage` and left out, as players do.

    The count is the same in every run, so that a resumed run can skip frames by number.
    """
    stream.codec_context.flags |= av.codec.context.Flags.output_corrupt  # frames behind a lost key frame
    packets = file.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            damage.cut = f"the file ends early ({error.strerror})"
            packet = None
        try:
            frames = stream.decode(packet)
        except av.error.EOFError:  # flushed before
            frames = []
        except av.error.FFmpegError:
            damage.lost += 1
            frames = []
        for frame in frames:
            damage.shown += bool(frame.is_corrupt)
            yield frame
        if packet is None:
            return


def deinterlaced(av: Any, stream: Any, frames: Iterator[Any]) -> Iterator[Any]:
    """One frame for each interlaced frame, at the same time; progressive frames pass unchanged.

    Raises:
        UserError: this build of libav has no filter for it.
    """
    name = deinterlacer(av)
    graph = av.filter.Graph()
    source, sink = graph.add_buffer(template=stream), graph.add("buffersink")
    filter = graph.add(name, "mode=send_frame:deint=interlaced")
    source.link_to(filter)
    filter.link_to(sink)
    graph.configure()
    for frame in frames:
        graph.vpush(frame)
        yield from _pulled(av, graph)
    graph.vpush(None)
    yield from _pulled(av, graph)


def deinterlacer(av: Any) -> str:
    """The name of the filter. Raises UserError where there is none."""
    name = next((name for name in FILTERS if name in av.filter.filters_available), None)
    if name is None:
        raise UserError("this PyAV has no deinterlacing filter; install av from PyPI or leave out --deinterlace")
    return name


def _pulled(av: Any, graph: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
