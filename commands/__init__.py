"""What the commands of `tykpy` do, one module each; `cli.py` only parses."""
