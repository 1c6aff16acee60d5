"""What can go wrong in a benchmark."""


class BenchmarkError(Exception):
    """Root of the benchmark's errors; the message is for the person who runs it."""


class LoadGeneratorError(BenchmarkError):
    """The load generator is not there, or what it measured is not what was meant."""


class ServerError(BenchmarkError):
    """A server did not start, ended, or answered wrongly."""
