"""The control half of Pangu, the block store: master, placement, repair, snapshots; and the client of the rest."""
