"""Tenant networks: what OVN and each host must look like (pure), and the loops that keep them so."""
