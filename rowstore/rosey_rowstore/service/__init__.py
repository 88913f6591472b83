"""The row service as a process: requests from NATS, bounded and fair, each answered."""
