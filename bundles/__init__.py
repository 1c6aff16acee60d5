"""A bundle as a library: its files, its manifest, its imports and its hooks."""
