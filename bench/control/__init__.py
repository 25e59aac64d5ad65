"""The control plane at the size of a large cloud: the real API and the real leader on a real etcd, agents played."""
