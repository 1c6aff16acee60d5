"""One dispatch in a worker: from its frame to the answer."""
