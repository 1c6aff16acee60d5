"""`python -m tykpy`: the command line."""

from tykpy.cli import main

if __name__ == "__main__":
    main()
