"""What both halves share: configuration, ternary packing, the `.bitmar` file, photographs. Never torch."""
