"""Training data: sources of images, the order of samples, crops, and the stream of batches."""

from sr.data.folder import FolderSource
from sr.data.mix import Mix
from sr.data.shards import ShardSource

SOURCES: dict[str, type] = {"shards": ShardSource, "folder": FolderSource, "mix": Mix}
