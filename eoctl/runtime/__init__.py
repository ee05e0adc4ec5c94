"""The embedded runtime: pipelines that checkpoint into the store and restore from it, exactly once."""
