"""The commands of `mien`, one file each; they read options, call what does the work, and print."""
