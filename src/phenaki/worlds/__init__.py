"""Worlds that make recordings: procedural ones and simulators."""
