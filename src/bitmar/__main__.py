"""`python -m bitmar`: the command line, also where a launcher such as torchrun wants a module."""

from __future__ import annotations

from bitmar.cli import main

if __name__ == "__main__":
    main()
