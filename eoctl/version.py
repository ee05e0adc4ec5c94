"""The version, said once: the build reads it from here, and so does `eoctl --version`."""

VERSION = "0.1.0"
