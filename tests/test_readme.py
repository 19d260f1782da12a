"""The commands of the README work as they are pasted, one after another, from an empty folder beside examples/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = [block for language, block in BLOCKS if language == "python"]
COMMANDS = [line for _, block in BLOCKS for line in block.splitlines() if line.startswith("phenaki ")]


def test_inputs_of_the_readme_are_in_examples() -> None:
    """The quick half: every file that a command reads is shipped, or written by a command before it."""
    written: set[str] = set()
    assert len(COMMANDS) > 10
    for command in COMMANDS:
        words = command.split()
        for word in words[2:]:
            if word.startswith("examples/"):
                assert (PROJECT / word).exists(), f"{word} of `{command}`"
        outputs = [words[i + 1] for i, word in enumerate(words) if word in ("-o", "--out", "--report")]
        inputs = [word for word in words[2:] if re.search(r"\.(mp4|gif|png|txt)$", word) and word not in outputs]
        assert all(word.startswith("examples/") or word in written for word in inputs), command
        written.update(outputs)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_readme_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "examples", tmp_path / "examples")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "phenaki"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m phenaki "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT / "src"),
        "HF_HUB_OFFLINE": "1",
    }
    for command in COMMANDS:
        ended = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        assert "Traceback" not in ended.stderr, ended.stderr
    for block in PYTHON:
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=environment, check=True)
    for made in ("story.gif", "longer.mp4", "now-it-moves-down.mp4", "between.mp4", "star.mp4", "endless.mp4"):
        assert (tmp_path / made).stat().st_size > 1000, made
    assert (tmp_path / "out/report/report.html").exists() and (tmp_path / "circle.mp4").exists()
