"""`python -m benchmarks.gateway`: HTTP requests through a gateway, with every way to run its hooks beside the others.

The gateway is the small one of tests/gateway, or a Tyk Gateway (`TYK=/path/to/tyk`). All programs run all the time,
and each gets its turn in every round, so that a disturbance hits all of them alike.
"""
