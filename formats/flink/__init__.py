"""Apache Flink's checkpoints and savepoints: what the bytes of `_metadata` and of the files it names mean."""
