"""`tykpy dev`: an HTTP gateway that treats hooks as Tyk does, for the machine of a plugin author."""
