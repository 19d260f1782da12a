"""Blocks that know no task: attention, transformer layers, positions."""
