"""Ring buffers in shared memory."""
