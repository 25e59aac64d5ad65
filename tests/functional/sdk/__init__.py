"""The official clients as oracles: life cycles that run against any cloud, and a strict check of what it answers."""
