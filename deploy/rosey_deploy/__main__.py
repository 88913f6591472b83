"""The entry point of the `rosey-storage` command."""
