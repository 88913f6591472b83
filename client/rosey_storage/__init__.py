"""Storage for Rosey's plugins: KV and rows through one client."""
