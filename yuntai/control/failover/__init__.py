"""Failed hosts: who is called failed (:mod:`.verdict`), what is to become of its guests (:mod:`.planner`), doing it."""
