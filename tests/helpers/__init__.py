"""Shared by test modules: tiny models, media files, servers, training runs."""
