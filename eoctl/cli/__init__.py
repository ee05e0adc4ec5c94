"""The command line: it parses, calls one service, and renders what that answered. Nothing is decided here."""
