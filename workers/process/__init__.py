"""The worker as an operating system process: signals, limits, standard streams, forks."""
