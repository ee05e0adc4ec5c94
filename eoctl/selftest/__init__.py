"""A simulation of many processes on one store, with everything going wrong: the real code, virtual time, one seed."""
