"""`tykpy lint`: find what the gateway will ignore in a bundle's code, without running it."""
