"""Metrics are right: an oracle reaches 100 %, a wrong model nothing, and each metric has its protocol."""

from __future__ import annotations
