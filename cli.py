"""`python cli.py COMMAND`: the same as the installed command `lisae`."""

from lisae_tf.cli import main

if __name__ == "__main__":
    main()
