"""How much a machine can do: a formula, and the measurements that confirm it."""
