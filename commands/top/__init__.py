"""`tykpy top`: a live view of a running broker in the terminal."""
