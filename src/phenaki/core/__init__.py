"""Foundations of all packages: errors, files, configurations, devices, components on disk."""
