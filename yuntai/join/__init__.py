"""A server becomes a host of the cloud: what must hold first, the talk with the cluster, and the files it gets."""
