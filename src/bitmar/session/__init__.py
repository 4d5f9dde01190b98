"""What a device remembers: episodes written at once, found again by photo or by text, kept in a `.mem` file."""
