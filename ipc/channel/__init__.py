"""The two ends of the channel between the broker and one worker."""
