"""Where operators keep keyed state."""
