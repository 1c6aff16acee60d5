"""The metrics of plugins that a worker sends to the broker: one metric per message, within bounds that both keep to.

`tyk.metrics` tells plugin authors the same limits.
"""

from typing import Final

MAX_METRICS: Final = 100
"""Metrics of one bundle."""
MAX_SERIES: Final = 1_000
"""Series of one bundle."""
MAX_NAME: Final = 128
"""Longest name of a metric or label, in characters."""
MAX_HELP: Final = 256
"""Longest help text, in characters."""
MAX_LABELS: Final = 10
"""Labels of one metric."""
MAX_VALUE: Final = 128
"""Longest value of a label, in characters."""
MAX_BUCKETS: Final = 50
"""Buckets of one histogram, without the one that has no bound."""
MAX_NUMBERS: Final = MAX_BUCKETS + 2
"""Numbers of one series: a histogram's sum, and the counts of its buckets."""
PIECE_SERIES: Final = 200
"""Most series in one message: a million bytes if all labels are long and in an Asian script."""
