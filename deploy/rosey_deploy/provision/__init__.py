"""From `plugins.toml` to accounts, credentials, buckets, schemas and logins: declared, compared, made so."""
