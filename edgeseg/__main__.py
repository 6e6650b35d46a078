"""`python -m edgeseg`: the same as the `edgeseg` command; torchrun starts training this way."""

from edgeseg.cli.main import main

if __name__ == "__main__":
    main()
