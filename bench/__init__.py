"""`tykpy bench`: real dispatches through a real broker, swept over workers, threads, streams, rates and body sizes."""
