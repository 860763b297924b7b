"""`python -m adaptvis` is the command `adaptvis`."""

from adaptvis.cli.app import main

if __name__ == "__main__":
    main()
