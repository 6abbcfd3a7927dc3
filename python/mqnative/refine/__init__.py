"""Choosing better at the operating point: moves measured on a solved mix."""
