"""What a run shows of its networks while it trains: metrics on fixed clips, and clips to look at."""

from __future__ import annotations
