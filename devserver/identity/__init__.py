"""Who a request is from: keys, their sessions and limits, and the id extractor."""
