"""One worker process: finds, loads and runs the hooks of bundles."""
