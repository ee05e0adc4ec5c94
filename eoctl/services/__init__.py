"""One use case, one module, one function: gather, decide, act, and a value back."""
