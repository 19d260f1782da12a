"""Names resolve to model folders: in the package, on disk, on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from phenaki.core import hub
from phenaki.core.errors import PhenakiError


def test_names_resolve_to_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shapes-64", "__pycache__"):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "models" / "shapes-64" / "model.json").write_text("{}")
    (tmp_path / "models" / "notes.txt").write_text("no model")
    monkeypatch.setattr(hub, "ZOO", tmp_path / "models")
    assert hub.model_names() == ["shapes-64"]
    assert hub.resolve("shapes-64") == tmp_path / "models" / "shapes-64"
    assert hub.resolve(tmp_path) == tmp_path and hub.resolve(str(tmp_path)) == tmp_path
    with pytest.raises(PhenakiError, match=r"'shapes-46'\. Did you mean 'shapes-64'\? .*package: shapes-64\."):
        hub.resolve("shapes-46")
    with pytest.raises(PhenakiError, match="is a file; pass a model folder, or one of: shapes-64"):
        hub.resolve(tmp_path / "models" / "notes.txt")
    with pytest.raises(PhenakiError, match="There is no model or folder"):
        hub.resolve(Path("owner/name"))  # a Path is never a name on the hub
    with pytest.raises(PhenakiError, match="There is no model or folder"):
        hub.resolve("n" * 10_000)


def test_the_hub_is_asked_last_and_its_errors_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked = []

    def found(name: str, allow_patterns: list[str], **options: object) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    def unreachable(name: str, **options: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    assert hub.resolve("owner/name") == tmp_path
    assert asked == [("owner/name", ["*.json", "*.safetensors"])]  # no pickles
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(PhenakiError, match="no folder 'owner/name'.*not in the local cache.*hf download owner/name"):
        hub.resolve("owner/name")


@pytest.mark.parametrize("revision", ["/dev/zero", "../../secret", "a/../../b", "a b"])
def test_a_revision_is_no_path(revision: str) -> None:
    """huggingface_hub reads the file refs/REVISION, and a config of others may name any."""
    for ask in (
        lambda: hub.local_folder("openai/clip", revision),
        lambda: hub.resolve("openai/clip", revision=revision),
    ):
        with pytest.raises(PhenakiError, match=f"revision '{revision}': pass a branch, a tag or a commit"):
            ask()


def test_links_to_files_elsewhere_are_not_pushed(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    (snapshot.parents[1] / "blobs" / "0123").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    (snapshot / "other.json").symlink_to(tmp_path / "secret.json")
    assert list(hub.model_files(snapshot)) == ["config.json"]
