"""Pure planners and dumb executors: requests become records and jobs; jobs become volumes, ports and guests."""
