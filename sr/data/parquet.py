"""Parquet files with a column of encoded images as a source."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from sr.core.errors import UserError
from sr.data.codecs import decode
from sr.data.paths import file_names
from sr.data.remote.download import retry, shown
from sr.data.remote.transport import file_system, is_remote, transport_errors
from sr.data.source import Sample
from sr.images import ImageError
from sr.images.listing import printable

WINDOW = 4  # row groups


class ParquetSource:
    """Parquet files with encoded images, such as data sets of the Hugging Face hub. Needs the package pyarrow.

    Each row group is a shard: it is read whole into memory, so files should have groups of some hundred images.
    path: files, folders (their `*.parquet`), globs, brace patterns, or URLs of fsspec such as
    `hf://datasets/USER/REPO/data/*.parquet`. Remote files are read by ranges, without a cache.
    gt, lq: columns of image bytes, or of structs with a field `bytes`.
    window: row groups that are read from at a time; each worker keeps twice as many in memory.
    channels: of lq and of gt, see `sr.images.read_pixels`.
    """

    def __init__(
        self,
        *,
        path: str | list[str],
        gt: str = "image",
        lq: str = "",
        window: int = WINDOW,
        channels: tuple[int, int] = (3, 3),
    ) -> None:
        self._columns, self._channels, self.window = [name for name in (gt, lq) if name], channels, window
        self._files = file_names(path, ".parquet")
        self._groups: list[tuple[int, int]] = []
        self._counts: list[int] = []
        for number, file in enumerate(self._files):
            opened = self._opened(file)
            names = opened.schema_arrow.names
            missing = next((name for name in self._columns if name not in names), None)
            if missing is not None:
                raise UserError(f"{_shown(file)} has no column '{missing}'; set gt and lq to two of {', '.join(names)}")
            for group in range(opened.num_row_groups):
                self._groups.append((number, group))
                self._counts.append(opened.metadata.row_group(group).num_rows)
            opened.close()
        self._read: OrderedDict[int, Any] = OrderedDict()

    @property
    def counts(self) -> Sequence[int]:
        return self._counts

    def read(self, shard: int, index: int) -> Sample:
        table, name = self._group(shard), self.name(shard, index)
        images = [
            decode(_bytes(table[column][index].as_py(), name), channels=channels, name=name)
            for column, channels in zip(self._columns, self._channels[::-1], strict=False)
        ]
        return Sample(*images)

    def name(self, shard: int, index: int) -> str:
        file, group = self._groups[shard]
        return f"{_shown(self._files[file]).rpartition('/')[2]}: row group {group}, row {index}"

    def _group(self, shard: int) -> Any:
        if shard not in self._read:
            file, group = self._groups[shard]
            self._read[shard] = self._opened(self._files[file], group)
            if len(self._read) > 2 * self.window:
                self._read.popitem(last=False)
        self._read.move_to_end(shard)
        return self._read[shard]

    def _opened(self, file: str, group: int | None = None) -> Any:
        """The open file, or the columns of one of its row groups. Raises UserError."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise UserError("parquet data needs the package pyarrow; run: pip install pyarrow") from None

        def read(source: Any) -> Any:
            opened = parquet.ParquetFile(source)
            # Threads of pyarrow do not survive the fork of a worker.
            return opened if group is None else opened.read_row_group(group, columns=self._columns, use_threads=False)

        def read_remote() -> Any:
            with transport_errors():
                system, path = file_system(file)
                return read(system.open(path, "rb", block_size=1 << 20))

        try:
            return retry(file, read_remote) if is_remote(file) else read(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{_shown(file)} cannot be read ({error}); make or copy it again") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": OrderedDict()}


def _bytes(value: Any, name: str) -> bytes:
    """The encoded image of a cell. Raises ImageError."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise ImageError(name, "the cell holds no image bytes")
    return data


def _shown(file: str) -> str:
    return shown(file) if is_remote(file) else printable(file)
