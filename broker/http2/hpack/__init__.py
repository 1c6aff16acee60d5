"""Header compression (RFC 7541) and the rules for header fields (RFC 9113, section 8)."""
