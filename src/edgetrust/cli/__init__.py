"""The command line: the composition root. One module per noun; nothing below imports it.

Commands import what they need when they run, so that `--help` and completion stay quick.
"""
