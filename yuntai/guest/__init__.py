"""Guest images made on the user's own machine from the distribution's packages: no loop device, no mount, only apt."""
