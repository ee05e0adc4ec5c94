"""Where bytes live, and how long: backends, blobs, the head of each pipeline, sessions, references, gc.

Users import from `eoctl`. Modules here know the store's layout and protocol, and nothing of commands, engines
or foreign formats.
"""
