"""Remote shards: transport, download and the local cache."""
