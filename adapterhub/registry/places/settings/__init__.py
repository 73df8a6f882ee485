"""What the settings of applications say of where they keep things: read as data, never run."""
