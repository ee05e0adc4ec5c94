"""What bytes mean: ids, manifests, tables, savepoints, Flink metadata. Values in, values out, no I/O.

Users import from `eoctl`. Modules here import nothing from `storage` or `eoctl`, never open a file, and never
look at the clock, randomness, the environment or a log.
"""
