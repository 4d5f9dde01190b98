"""Shared by both halves: configuration, ternary packing, the `.bitmar` file, photographs. Never torch."""
