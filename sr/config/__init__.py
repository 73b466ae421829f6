"""The options file: YAML with positions, schema from constructor signatures, JSON schema."""
