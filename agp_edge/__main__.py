"""`python -m agp_edge`: the same as `agp-edge`."""

from agp_edge.cli import main

if __name__ == "__main__":
    main()
