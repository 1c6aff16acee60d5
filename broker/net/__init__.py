"""Listening: addresses, sockets, TLS, and who may connect."""
