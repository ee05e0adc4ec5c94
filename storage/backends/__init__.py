"""The places: memory and local disk; each a `Backend`, none known to the code above."""
