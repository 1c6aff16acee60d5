"""`tykpy bundle`: build, sign, verify, list and convert bundles."""
