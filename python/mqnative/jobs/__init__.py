"""Pipelines: what is measured in which order, and what is written at the end."""
