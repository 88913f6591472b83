"""What a request means: tables, values, filters and statements, without any I/O."""
