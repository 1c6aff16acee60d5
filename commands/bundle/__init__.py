"""`tykpy bundle`: builds, signs, verifies, lists and converts bundles."""
