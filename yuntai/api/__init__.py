"""The cloud's API: signatures, dispatch on (Version, Action), and one module per resource.

It speaks the public RPC API of ECS, VPC, STS and Location, and under a version of our own the operator's actions. The
only side effect that it has is on the records in etcd, through :mod:`yuntai.control.requests`.
"""
