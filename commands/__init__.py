"""The commands of `tykpy`."""
