"""The command line's commands, one file each; what a command needs is imported when it runs."""
