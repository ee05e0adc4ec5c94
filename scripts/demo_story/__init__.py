"""The demonstration: a writer of RocksDB state, its checkpoints, its violent death, and a restore that is checked.

`orders.py` is the stream and what state it makes, `writer.py` the program that keeps that state, `check.py` looks at
every key of a restored one, `console.py` runs commands and shows them; `__main__.py` tells the story.
"""
