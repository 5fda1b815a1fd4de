"""Settings: the schema, recipes and overrides, validation, the stored form."""
