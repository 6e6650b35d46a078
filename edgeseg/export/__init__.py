"""From a torch model to a program."""
