"""Recordings of a broker's dispatches: the file, redaction, and replay."""
