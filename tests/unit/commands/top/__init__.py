"""Tests of `tykpy top` without a broker."""
