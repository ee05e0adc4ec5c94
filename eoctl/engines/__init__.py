"""Foreign engines as sources of state files: a directory, a RocksDB database, a SQLite database."""
