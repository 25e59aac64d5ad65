"""The command line, ``yuntai …``: a client of the API like any other, and the way into the lab of this machine."""
