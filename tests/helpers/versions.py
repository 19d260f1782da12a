"""Versions of libraries that tests ask for."""

from __future__ import annotations

import pytest
import torch


def needs_torch(version: str) -> pytest.MarkDecorator:
    """Skip with an older torch, such as "2.13"."""
    return pytest.mark.skipif(torch.__version__ < version, reason=f"needs torch {version}")
