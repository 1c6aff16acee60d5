"""Values of plugin metrics, for the assertions of tests."""

from tyk.metrics import collect, registry


class MetricValues:
    """Looks up what hooks in the test's process counted in this test."""

    def __call__(self, name: str, **labels: object) -> float:
        """Return the value of a sample, as `/metrics` names it: `requests_total`, `seconds_count`; 0 without one.

        Raises LookupError if no metric has such a sample, or it has other labels.
        """
        known = registry.current().labels
        if name not in known:
            raise LookupError(f"no metric has the sample {name!r}; there are: {', '.join(known) or 'none'}")
        if labels.keys() != set(known[name]):
            raise LookupError(f"{name} has the labels {known[name]}, not {tuple(labels)}")
        wanted = name, {label: str(value) for label, value in labels.items()}
        return next((sample.value for sample in collect() if (sample.name, sample.labels) == wanted), 0.0)
