"""`python -m edgetrust.cli`: the command line where the console script is not on PATH."""

from edgetrust.cli.main import main

if __name__ == "__main__":
    main()
