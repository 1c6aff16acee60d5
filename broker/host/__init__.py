"""The broker's process: its user, descriptors, service manager and upgrades."""
