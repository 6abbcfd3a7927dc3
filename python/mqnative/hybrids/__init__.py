"""Mixes by group and by name, learned from others and carried over to other models."""
