"""Training data: image sources, sampling order, crops and batches."""

from sr.data.colorize import Colorize
from sr.data.edges import Edges
from sr.data.folder import FolderSource
from sr.data.lmdb import LmdbSource
from sr.data.mix import Mix
from sr.data.paired import Paired, SideBySide
from sr.data.parquet import ParquetSource
from sr.data.shards import ShardSource
from sr.data.unpaired import Unpaired

SOURCES: dict[str, type] = {
    "shards": ShardSource,
    "folder": FolderSource,
    "lmdb": LmdbSource,
    "parquet": ParquetSource,
    "mix": Mix,
    "side_by_side": SideBySide,
    "paired": Paired,
    "unpaired": Unpaired,
    "colorize": Colorize,
    "edges": Edges,
}
