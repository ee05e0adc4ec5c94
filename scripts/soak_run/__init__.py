"""Everybody on one store for a long time, killed again and again; whatever is restored is compared with what was kept.

`state.py` says which bytes a state consists of, `worker.py` is what each process does, `__main__.py` starts, kills and
judges them.
"""
