"""The benchmarks behind `scripts/bench`: eoctl beside its peers, in turn, in one run.

Rules kept here: tools are measured from outside, as processes; every tool gets fresh folders and nothing is
deleted between them; a row whose command failed or whose restored tree differs from its source is void and
says so; a tool that is not installed is named as missing. Numbers are medians; the JSON has every sample.
"""
