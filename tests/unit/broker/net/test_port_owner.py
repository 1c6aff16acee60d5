"""What messages say about the process that owns an address."""

from tykpy.broker.net.port_owner import without_urls


def test_urls_are_removed_from_command_lines() -> None:
    line = "python tykpy broker --redis redis://:secret@h/0 --event-webhook=https://h/secret --workers 2"
    assert without_urls(line) == "python tykpy broker --redis redis://... --event-webhook=https://... --workers 2"
