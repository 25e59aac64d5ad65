"""Resources and their state machines. No I/O, and nothing of ours imported: every other package stands on this one."""
