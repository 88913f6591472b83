"""The `rosey-storage` command: the development stack, the service, and what operators need."""
