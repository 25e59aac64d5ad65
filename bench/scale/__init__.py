"""The real code of the block store's master at a size that no laptop has: only the wire to the servers is played."""
