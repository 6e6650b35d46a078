"""Inference runtimes, one file each; `table` names them."""
