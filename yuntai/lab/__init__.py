"""A whole cloud on one machine: each host is an overlay root and namespaces of its own, running the real programs."""
