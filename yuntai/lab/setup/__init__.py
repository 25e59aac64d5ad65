"""Set up this machine: ``python3 -m yuntai.lab.setup up``.

Everything in this package runs before anything is installed, so it uses the standard library only, and of ``yuntai``
only what does the same.
"""
