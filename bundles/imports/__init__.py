"""Imports of a bundle's own modules."""
