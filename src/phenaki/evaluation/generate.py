"""Videos of many prompts, generated in batches by the code that users call, and scored."""

from __future__ import annotations
