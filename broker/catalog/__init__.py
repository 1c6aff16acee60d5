"""The bundles as the broker sees them: their names, versions, and what workers loaded of them."""
