"""`python -m tuner`: the console script, where a shell does not find it."""

from tuner.cli import main

if __name__ == "__main__":
    main()
