"""The suites on containers: `pytest --containers`, which `make test-containers` runs."""
