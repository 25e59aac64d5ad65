"""The host agent: makes this host's virtual machines be what the records say, and writes back what they are."""
