"""`python -m benchmarks.ring`: a pipelined 900-byte round trip between two processes, over our channel and others."""
