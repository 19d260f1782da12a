"""The options of packing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from phenaki.core.config import bounded, configclass, to_dict
from phenaki.core.errors import PhenakiError, did_you_mean
from phenaki.data.captions import check_template
from phenaki.data.cuts import Cutting
from phenaki.data.engines import check_engine
from phenaki.data.layouts import Layout
from phenaki.data.table_rows import Columns

_NOT_CONTENT = ("out", "processes", "engine", "address")


@configclass
class PackConfig:
    """Which sources `pack` writes, and how.

    sources: folders of videos and images; at s3:// those that the table names.
    out: a folder, local or at s3://.
    table: captions or labels of the files (`captions.CaptionTable`), instead of tables in the sources.
    columns: of that table, or of theirs.
    label_from_folder: the name of its folder is the label of a file without one.
    templates: of captions, such as "a video of {label}", stored beside the shards; one is drawn at each use.
    cutting: how sources become clips.
    validation: fraction of the sources that is held out from training.
    shard_bytes, shard_samples: limits of a shard.
    processes: 0 for one per core.
    engine: where sources are cut: "local", or "ray", a cluster at `address` (`ray_cluster.ray_cluster`).
    layout: how the sources are published: "folder" of media files, "lerobot", "ucf101", "kinetics", "something".
    camera, states: of LeRobot data, the key of the camera, and whether states are actions too (`lerobot.LeRobot`).
    """

    sources: tuple[Path | str, ...]
    out: str
    table: Path | None = None
    columns: Columns = Columns()
    label_from_folder: bool = False
    templates: tuple[str, ...] = ()
    cutting: Cutting = Cutting()
    validation: float = bounded(0.05, at_least=0, below=1)
    shard_bytes: int = bounded(256 * 2**20, at_least=1)
    shard_samples: int = bounded(10_000, at_least=1)
    processes: int = bounded(0, at_least=0)
    engine: str = "local"
    address: str = ""
    layout: Layout = "folder"
    camera: str = ""
    states: bool = False

    def __post_init__(self) -> None:
        if not self.sources:
            raise PhenakiError("There is nothing to pack: name at least one folder of videos or images.")
        check_engine(self.engine, self.address)
        if self.layout not in get_args(Layout):
            nearest = did_you_mean(self.layout, get_args(Layout))
            raise PhenakiError(f"there is no layout '{self.layout}': there are {', '.join(get_args(Layout))}.{nearest}")
        if (self.camera or self.states) and self.layout != "lerobot":
            raise PhenakiError("a camera and states are of LeRobot data: say --from lerobot")
        for template in self.templates:
            check_template(template)

    def options(self) -> dict[str, Any]:
        """The options that determine the content of the shards, as plain data."""
        return {key: value for key, value in to_dict(self).items() if key not in _NOT_CONTENT}
