"""The servers of the development stack, started from their wheels."""
