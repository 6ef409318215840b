"""What this project claims, measured: every figure in docs/ comes from a script here."""
