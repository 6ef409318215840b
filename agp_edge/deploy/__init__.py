"""The device's own housekeeping: what this machine can do, and how to get the rest."""
