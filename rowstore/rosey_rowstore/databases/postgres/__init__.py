"""Postgres: a schema and two logins per plugin, lanes of pipelines, reflection by catalog queries."""
