"""A device's memory: episodes written at once, found again by photo or by text, kept in a `.mem` file."""
