"""What the outside sees of a running broker: snapshots, in shared memory and over HTTP."""
