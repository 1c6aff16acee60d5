"""`python -m benchmarks.bars`: is what the project promises of its speed true? One row for each promise, in one run."""
