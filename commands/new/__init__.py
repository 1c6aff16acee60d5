"""`tykpy new`: a bundle to begin with."""
