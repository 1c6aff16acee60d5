"""Where the hooks run: in a process of their own, in this one, or in a broker."""
