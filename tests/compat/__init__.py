"""What processes of the release before this one read and write: recorded, so that every build is held to it."""
