"""`python -m tideover.cli`: the same as `tideover`."""

from tideover.cli.app import main

if __name__ == "__main__":
    main()
